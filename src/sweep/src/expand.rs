//! Expands axes, overrides and exclusions into cells: the value of each field at each point of the
//! grid.
//!
//! Order, weakest first: the recipe's values for the cell's data set, the recipe's own fields and
//! `set`, axis values, overrides. The order in the file decides nothing: different values that meet
//! in one cell are an error, unless `priority` decides which override wins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use serde_json::Value;

use crate::contradiction::Contradiction;
use crate::dataset::FOLDER_PREFIX;
use crate::definition::{Candidate, Cell, Search, Select};
use crate::draft::{Condition, Draft};
use crate::field;
use crate::held_out;
use crate::load::FindSide;
use crate::reader::{Assignment, Reader};
use crate::recipe;
use crate::search_draft::DraftSearch;
use crate::settings::{Fields, Settings};

pub(crate) struct Expanded {
    pub base: Settings,
    pub cells: Vec<Cell>,
}

/// Returns the number of trials of one cell, including a search with `search_seeds` seeds.
pub(crate) fn trials_per_cell(seeds: usize, search: Option<&Search>, search_seeds: usize) -> u64 {
    let seeds = seeds as u64;
    match search {
        None => seeds,
        Some(search) if search.select == Select::BestOnTest => {
            search.candidates.len() as u64 * seeds
        }
        Some(search) => search.candidates.len() as u64 * search_seeds as u64 + seeds,
    }
}

/// Returns the number of trials of these cells.
pub(crate) fn num_trials(cells: &[Cell], seeds: usize, search: Option<&Search>) -> u64 {
    let of = |cell: &Cell| {
        trials_per_cell(
            seeds,
            search,
            search.map_or(0, |search| search.seeds_for(cell).len()),
        )
    };
    cells.iter().map(of).fold(0, u64::saturating_add)
}

/// Expands a draft. `None` if there are no usable cells; the reader then has problems.
pub(crate) fn expand(
    reader: &mut Reader,
    draft: &Draft<'_>,
    find_side: FindSide<'_>,
) -> Option<Expanded> {
    let search = draft.search.as_ref().map(|search| &search.search);
    check_size(reader, draft, fewest_trials(draft))?;
    let mut grid = Grid {
        draft,
        find_side,
        recipes: BTreeMap::new(),
        reported: BTreeSet::new(),
    };
    if !grid.has_dataset() {
        reader.refuse(
            &(0..0),
            "the sweep names no data set to train on",
            "add `dataset: [digits]` to `axes`, or `dataset: digits` to `set`",
        );
        return None;
    }
    let mut override_used = vec![false; draft.overrides.len()];
    let mut exclusion_used = vec![false; draft.exclude.len()];
    let mut cells = Vec::new();
    let mut base: Option<(Settings, Fields)> = None;
    let mut seen: HashMap<[u8; 32], Vec<u32>> = HashMap::new();
    for coordinates in every_coordinate(draft) {
        let point = grid.before_overrides(reader, &coordinates);
        let mut is_excluded = false;
        for (exclusion, used) in draft.exclude.iter().zip(&mut exclusion_used) {
            let applies = matches(&exclusion.when, &coordinates, &point);
            *used |= applies;
            is_excluded |= applies;
        }
        if is_excluded {
            continue;
        }
        let before = point.clone();
        let fields = grid.with_overrides(reader, &coordinates, point, &mut override_used);
        let (_, base_fields) = base.get_or_insert_with(|| {
            let fields = grid.common(&fields);
            (settings_of(draft, &fields), fields)
        });
        grid.check_settings(reader, &coordinates, &before, &fields);
        if let Some(first) = seen.insert(digest(&fields), coordinates.clone()) {
            grid.report_twin(reader, &first, &coordinates);
        }
        let held_out = search.filter(|search| search.select == Select::Validation);
        let held_out = held_out
            .and_then(|search| held_out::published(&settings_of(draft, &fields), &search.holdout));
        let set = fields
            .into_iter()
            .filter(|(name, value)| base_fields.get(name) != Some(value))
            .collect();
        cells.push(Cell {
            coordinates,
            set,
            skipped: None,
            held_out,
        });
    }
    check_size(
        reader,
        draft,
        Some(num_trials(&cells, draft.most_seeds(), search)),
    )?;
    check_used(
        reader,
        draft,
        &override_used,
        &exclusion_used,
        cells.is_empty(),
    );
    base.map(|(base, _)| Expanded { base, cells })
}

/// Returns the override that decides each field of a cell, by its index; fields that none decides are
/// left out. For a draft without problems.
pub(crate) fn overrides_of(
    reader: &mut Reader,
    draft: &Draft<'_>,
    coordinates: &[u32],
) -> BTreeMap<String, usize> {
    let mut grid = Grid {
        draft,
        find_side: &|_| None,
        recipes: BTreeMap::new(),
        reported: BTreeSet::new(),
    };
    let before = grid.before_overrides(reader, coordinates);
    let mut decided: BTreeMap<String, usize> = BTreeMap::new();
    let overrides = draft.overrides.iter().enumerate();
    for (index, over) in overrides.filter(|(_, over)| over.sound) {
        if !matches(&over.when, coordinates, &before) {
            continue;
        }
        for set in &over.set {
            let strongest = decided.entry(set.field.name().to_owned()).or_insert(index);
            if draft.overrides[*strongest].priority < over.priority {
                *strongest = index;
            }
        }
    }
    decided
}

/// Reports contradictions between the parts of a file that has other problems: values that conflict
/// in one cell. Possible consequences of a part that could not be read are not reported.
pub(crate) fn report_conflicts(reader: &mut Reader, draft: &Draft<'_>) {
    let has_recipe = draft.program.is_some() || recipe::names().any(|known| known == draft.recipe);
    // Sizes of images affect no conflict.
    let mut grid = Grid {
        draft,
        find_side: &|_| None,
        recipes: BTreeMap::new(),
        reported: BTreeSet::new(),
    };
    if !has_recipe
        || !grid.has_dataset()
        || fewest_trials(draft).is_none_or(|trials| trials > draft.max_trials)
    {
        return;
    }
    let mut used = vec![false; draft.overrides.len()];
    for coordinates in every_coordinate(draft) {
        let point = grid.before_overrides(reader, &coordinates);
        if !draft
            .exclude
            .iter()
            .any(|exclusion| matches(&exclusion.when, &coordinates, &point))
        {
            grid.with_overrides(reader, &coordinates, point, &mut used);
        }
    }
}

/// Returns the number of trials of the whole grid, or `None` on overflow. If the program chooses
/// the number of a search's seeds, it counts as one: the real number is known only once the cells
/// are.
fn fewest_trials(draft: &Draft<'_>) -> Option<u64> {
    let cells = draft.axes.iter().try_fold(1u64, |product, axis| {
        product.checked_mul(axis.values.len() as u64)
    })?;
    let search = draft.search.as_ref().map(|search| &search.search);
    let seeds = search.map_or(0, |search| {
        if search.automatic {
            search.holdout.folds() as usize
        } else {
            search.seeds.len()
        }
    });
    cells.checked_mul(trials_per_cell(draft.most_seeds(), search, seeds))
}

/// Refuses a grid that is too large. `trials` is `None` on overflow.
fn check_size(reader: &mut Reader, draft: &Draft<'_>, trials: Option<u64>) -> Option<()> {
    if trials.is_some_and(|trials| trials <= draft.max_trials) {
        return Some(());
    }
    let sizes: Vec<String> = draft
        .axes
        .iter()
        .map(|axis| format!("{} ({})", axis.name, axis.values.len()))
        .collect();
    let count = trials.map_or("more than 10^19".to_owned(), |trials| trials.to_string());
    let message = format!(
        "the grid has {count} trials, more than the limit of {}",
        draft.max_trials
    );
    let at = draft.axes.first().map_or(0..0, |axis| axis.at.clone());
    reader.refuse(&at, message, format!(
        "axes: {}; times {} seeds. Take values away, or raise the limit with `limits: {{trials: N}}` (at most {})",
        sizes.join(", "),
        draft.most_seeds(),
        crate::draft::HIGHEST_MAX_TRIALS
    ));
    None
}

/// Iterates over the grid; the last axis varies fastest.
fn every_coordinate(draft: &Draft<'_>) -> impl Iterator<Item = Vec<u32>> {
    let sizes: Vec<u32> = draft
        .axes
        .iter()
        .map(|axis| axis.values.len() as u32)
        .collect();
    let mut next = (!sizes.contains(&0)).then(|| vec![0; sizes.len()]);
    std::iter::from_fn(move || {
        let current = next.take()?;
        let mut following = current.clone();
        for (index, size) in following.iter_mut().zip(&sizes).rev() {
            *index += 1;
            if *index < *size {
                next = Some(following);
                break;
            }
            *index = 0;
        }
        Some(current)
    })
}

fn matches(when: &[Condition], coordinates: &[u32], fields: &Fields) -> bool {
    when.iter().all(|condition| match condition {
        Condition::Axis(axis, values) => values.contains(&coordinates[*axis]),
        Condition::Field(field, values) => fields
            .get(field.name())
            .is_some_and(|value| values.contains(value)),
    })
}

fn digest(fields: &Fields) -> [u8; 32] {
    *blake3::hash(&serde_json::to_vec(fields).expect("fields are plain data")).as_bytes()
}

fn settings_of(draft: &Draft<'_>, fields: &Fields) -> Settings {
    let settings = match &draft.program {
        Some(block) => Settings::of_program("", block.defaults()).with(fields),
        None => Settings::from_fields(fields),
    };
    settings.expect("every field was checked")
}

/// Returns the fields of a trial that tests a candidate.
fn with_candidate(fields: &Fields, search: &DraftSearch, candidate: &Candidate) -> Fields {
    let mut fields = fields.clone();
    fields.extend(candidate.0.clone());
    if search.search.select == Select::Validation {
        let holdout = serde_json::to_value(search.search.holdout).expect("plain data");
        fields.insert("holdout".to_owned(), holdout);
    }
    fields
}

struct Grid<'d, 'n> {
    draft: &'d Draft<'n>,
    find_side: FindSide<'d>,
    /// The recipe's fields with `set` applied, by data set.
    recipes: BTreeMap<String, Fields>,
    /// Problems reported already: one per pair, not one per cell.
    reported: BTreeSet<String>,
}

impl Grid<'_, '_> {
    /// Returns true if the sweep sets a data set for every cell.
    fn has_dataset(&self) -> bool {
        let sets = |set: &Assignment| set.field.name() == "dataset";
        let mut axes = self.draft.axes.iter();
        self.draft.program.is_some()
            || axes.any(|axis| axis.values.iter().all(|value| value.set.iter().any(sets)))
            || self.draft.set.iter().any(sets)
    }

    /// Returns recipe and `set` for the data set of the given fields.
    fn common(&mut self, fields: &Fields) -> Fields {
        let dataset = fields.get("dataset").and_then(Value::as_str);
        self.recipe(dataset.unwrap_or_default()).clone()
    }

    fn recipe(&mut self, dataset: &str) -> &Fields {
        let (draft, find_side) = (self.draft, self.find_side);
        self.recipes.entry(dataset.to_owned()).or_insert_with(|| {
            let side = dataset
                .starts_with(FOLDER_PREFIX)
                .then(|| find_side(dataset))
                .flatten();
            let settings = match &draft.program {
                Some(block) => Settings::of_program(dataset, block.defaults()),
                None => recipe::fitted(&draft.recipe, dataset, side)
                    .expect("the recipe's name was checked"),
            };
            let mut fields = settings.fields();
            for set in draft.set.iter().filter(|set| set.field.name() != "dataset") {
                fields.insert(set.field.name().to_owned(), set.value.clone());
            }
            fields
        })
    }

    /// Reports two axes that set one field differently.
    fn report_two_axes(
        &mut self,
        reader: &mut Reader,
        (other, first): (usize, &Assignment),
        (index, second): (usize, &Assignment),
    ) {
        let name = second.field.name();
        if !self.reported.insert(format!("{other}/{index}/{name}")) {
            return;
        }
        let [one, two] = [other, index].map(|index| &self.draft.axes[index].name);
        let here = |set: &Assignment| format!("{} here", field::show(&set.value));
        reader.report(
            reader
                .problem(
                    &second.at,
                    format!("axes `{one}` and `{two}` both set `{name}`"),
                )
                .label(here(second))
                .also(first.at.clone(), here(first))
                .help("a field belongs to one axis; exceptions are overrides"),
        );
    }

    /// Returns the fields of a cell before any override.
    fn before_overrides(&mut self, reader: &mut Reader, coordinates: &[u32]) -> Fields {
        let draft = self.draft;
        let mut set_by: BTreeMap<&str, (usize, &Assignment)> = BTreeMap::new();
        for (index, (axis, &value)) in draft.axes.iter().zip(coordinates).enumerate() {
            for set in &axis.values[value as usize].set {
                let earlier = set_by.insert(set.field.name(), (index, set));
                if let Some((other, first)) = earlier
                    && first.value != set.value
                {
                    self.report_two_axes(reader, (other, first), (index, set));
                }
            }
        }
        let common = draft.set.iter().find(|set| set.field.name() == "dataset");
        let dataset = set_by
            .get("dataset")
            .map(|(_, set)| *set)
            .or(common)
            .and_then(|set| set.value.as_str());
        let mut fields = self.recipe(dataset.unwrap_or_default()).clone();
        for (name, (_, set)) in set_by {
            fields.insert(name.to_owned(), set.value.clone());
        }
        fields
    }

    /// Returns the fields of a cell, and marks the overrides that apply to it as used.
    fn with_overrides(
        &mut self,
        reader: &mut Reader,
        coordinates: &[u32],
        before: Fields,
        used: &mut [bool],
    ) -> Fields {
        let draft = self.draft;
        let mut by_field: BTreeMap<&str, Vec<(usize, &Assignment)>> = BTreeMap::new();
        for (index, over) in draft.overrides.iter().enumerate() {
            if over.sound && matches(&over.when, coordinates, &before) {
                used[index] = true;
                for set in &over.set {
                    by_field
                        .entry(set.field.name())
                        .or_default()
                        .push((index, set));
                }
            }
        }
        let priority = |index: usize| draft.overrides[index].priority;
        let mut fields = before;
        for (name, mut rivals) in by_field {
            let highest = rivals.iter().map(|(index, _)| priority(*index)).max();
            rivals.retain(|(index, _)| Some(priority(*index)) == highest);
            let (index, winner) = rivals[0];
            if let Some(other) = rivals.iter().find(|(_, set)| set.value != winner.value) {
                self.report_two_overrides(reader, coordinates, (index, winner), *other);
            }
            self.check_override(reader, index, winner, &fields);
            fields.insert(name.to_owned(), winner.value.clone());
        }
        fields
    }

    /// Reports two overrides of one priority that set a field of one cell differently.
    fn report_two_overrides(
        &mut self,
        reader: &mut Reader,
        coordinates: &[u32],
        (one, first): (usize, &Assignment),
        (two, second): (usize, &Assignment),
    ) {
        let name = first.field.name();
        if !self.reported.insert(format!("override {one}/{two}/{name}")) {
            return;
        }
        let cell = self.cell_name(coordinates);
        let to = |set: &Assignment| format!("to {}", field::show(&set.value));
        reader.report(
            reader
                .problem(
                    &second.at,
                    format!("two overrides set `{name}` of the cell {cell}"),
                )
                .label(to(second))
                .also(first.at.clone(), to(first))
                .help("narrow one of their `when`, or give the one that should win `priority: 1`"),
        );
    }

    /// Reports an override that makes a cell contradict its name, or that sets the field of a
    /// search.
    fn check_override(
        &mut self,
        reader: &mut Reader,
        index: usize,
        set: &Assignment,
        fields: &Fields,
    ) {
        let name = set.field.name();
        let own_axis = self.draft.axes.iter().find(|axis| axis.name == name);
        if let Some(axis) = own_axis
            && fields.get(name) != Some(&set.value)
            && self.reported.insert(format!("axis {index}/{name}"))
        {
            let message = format!("an override changes `{name}`, which is an axis");
            let help = "its cells would contradict their names: `exclude` them, or edit the axis";
            reader.report(
                reader
                    .problem(&set.at, message)
                    .also(axis.at.clone(), "the axis")
                    .help(help),
            );
        }
        if let Some(DraftSearch { search, at }) = &self.draft.search
            && search.chooses(name)
            && self.reported.insert(format!("search {index}"))
        {
            let message = format!("an override sets `{name}`, which the search chooses");
            reader.report(
                reader
                    .problem(&set.at, message)
                    .also(at.clone(), "the search")
                    .help("remove one of the two"),
            );
        }
    }

    /// Checks the settings of a cell. `before`: the fields before any override, which overrides are
    /// matched with.
    fn check_settings(
        &mut self,
        reader: &mut Reader,
        coordinates: &[u32],
        before: &Fields,
        fields: &Fields,
    ) {
        let search = self.draft.search.as_ref();
        if let Some(search) = search.filter(|search| search.search.select == Select::Validation)
            && !fields["holdout"].is_null()
            && self.reported.insert("holdout".to_owned())
        {
            let message = format!(
                "`holdout` of the cell {} and a search that holds out",
                self.cell_name(coordinates)
            );
            reader.refuse(
                &search.at,
                message,
                "leave `holdout` to `search.holdout`: results come from the test set",
            );
        }
        let variants = match search {
            None => vec![fields.clone()],
            Some(search) => search
                .search
                .candidates
                .iter()
                .map(|candidate| with_candidate(fields, search, candidate))
                .collect(),
        };
        for fields in variants {
            for contradiction in settings_of(self.draft, &fields).contradictions() {
                if self.reported.insert(contradiction.message.clone()) {
                    self.report_impossible(reader, coordinates, before, contradiction);
                }
            }
        }
    }

    /// Points at each contradicting field that the file sets, the weakest last. A recipe's fields
    /// are in no file.
    fn report_impossible(
        &self,
        reader: &mut Reader,
        coordinates: &[u32],
        before: &Fields,
        contradiction: Contradiction,
    ) {
        let Contradiction {
            fields,
            message,
            help,
        } = contradiction;
        let mut places = fields
            .iter()
            .filter_map(|name| self.place_of(coordinates, before, name));
        let first = places.next().unwrap_or(0..0);
        let message = format!("{message} (cell {})", self.cell_name(coordinates));
        let mut problem = reader.problem(&first, message);
        for place in places {
            problem = problem.also(place, "and this");
        }
        reader.report(problem.help(help));
    }

    /// Finds where a field of a cell got its value: an override, an axis, the search, or `set` and
    /// `recipe`.
    fn place_of(&self, coordinates: &[u32], before: &Fields, name: &str) -> Option<Range<usize>> {
        let draft = self.draft;
        let sets = |set: &&Assignment| set.field.name() == name;
        let override_ = draft
            .overrides
            .iter()
            .filter(|over| matches(&over.when, coordinates, before))
            .filter_map(|over| Some((over.priority, over.set.iter().find(sets)?)))
            .max_by_key(|(priority, _)| *priority);
        if let Some((_, set)) = override_ {
            return Some(set.at.clone());
        }
        for (axis, &value) in draft.axes.iter().zip(coordinates) {
            if let Some(set) = axis.values[value as usize].set.iter().find(sets) {
                return Some(set.at.clone());
            }
        }
        if let Some(DraftSearch { search, at }) = &draft.search
            && (search.chooses(name) || name == "holdout" && search.select == Select::Validation)
        {
            return Some(at.clone());
        }
        draft.set.iter().find(sets).map(|set| set.at.clone())
    }

    fn report_twin(&mut self, reader: &mut Reader, first: &[u32], second: &[u32]) {
        let differs = (0..first.len())
            .find(|&axis| first[axis] != second[axis])
            .unwrap_or(0);
        let key = format!("twin {differs}/{}/{}", first[differs], second[differs]);
        if !self.reported.insert(key) {
            return;
        }
        let axis = &self.draft.axes[differs];
        let [one, other] = [first, second].map(|cell| &axis.values[cell[differs] as usize]);
        let message = format!(
            "the cells {} and {} are the same training",
            self.cell_name(first),
            self.cell_name(second)
        );
        reader.report(
            reader
                .problem(&other.at, message)
                .also(one.at.clone(), "same settings as this")
                .help(
                    "exclude one of them, or give them different values in `set` or by an override",
                ),
        );
    }

    fn cell_name(&self, coordinates: &[u32]) -> String {
        let names = self
            .draft
            .axes
            .iter()
            .zip(coordinates)
            .map(|(axis, &value)| axis.values[value as usize].name.as_str());
        let names: Vec<&str> = names.collect();
        if names.is_empty() {
            "(the only one)".to_owned()
        } else {
            names.join("/")
        }
    }
}

/// Reports exclusions and overrides that match no cell, and exclusions that leave none.
fn check_used(
    reader: &mut Reader,
    draft: &Draft<'_>,
    overrides: &[bool],
    exclusions: &[bool],
    no_cells: bool,
) {
    for (exclusion, used) in draft.exclude.iter().zip(exclusions) {
        if !used {
            reader.refuse(
                &exclusion.at,
                "this exclusion matches no cell",
                "no cell of the grid has all that its `when` asks for: correct or remove it",
            );
        }
    }
    if no_cells {
        let first = draft.exclude.first();
        let at = first.map_or(0..0, |exclusion| exclusion.at.clone());
        reader.refuse(&at, "the exclusions leave no cell", "remove one of them");
        return;
    }
    let help = "no cell has all that its `when` asks for, exclusions counted: correct or remove it. \
        Fields are compared as recipe, `set` and axes leave them, before any override";
    for (over, used) in draft.overrides.iter().zip(overrides) {
        if !used {
            reader.refuse(&over.at, "this override matches no cell", help);
        }
    }
}
