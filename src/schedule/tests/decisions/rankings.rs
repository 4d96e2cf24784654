//! More seeds for cells whose place is undecided: when there is a look, and the trials that follow.

use schedule::event::{Event, Recorded, Retry};
use schedule::ranking::Look;
use sweep::record::FailureClass;

use crate::searches::{place, train};
use crate::sweeps::{ranked, yaml};
use crate::world::{Started, World};

/// The seed of a trial and its cell.
fn cell_and_seed(world: &World, started: &Started) -> (u32, u64) {
    let (name, index) = &world.trial(started.id.trial).wanted_by[0];
    let wanted = &world.state.sweeps[name].trials[*index as usize];
    (wanted.cell, wanted.seed)
}

fn looks(world: &World, ranking: usize) -> Vec<(u32, Vec<u32>)> {
    let ranking = &world.state.sweeps["s"].rankings.list[ranking];
    let pair = |look: &Look| (look.seeds, look.undecided.clone());
    ranking.looks.iter().map(pair).collect()
}

fn seeds(world: &World, cell: u32) -> Vec<u64> {
    let trials = world.state.sweeps["s"].trials.iter();
    let own = trials.filter(|trial| trial.cell == cell);
    own.map(|trial| trial.seed).collect()
}

/// Results of a cell that vary by its seed.
fn around(mean: f64, seed: u64) -> f64 {
    mean + 0.001 * (seed % 3) as f64
}

#[test]
fn seeds_go_where_the_ranking_is_undecided_until_they_are_used_up() {
    let mut world = World::new();
    world.join("w", 3);
    assert_eq!(world.submit(ranked("s", 4, 7)).trials, 4 * 2);
    train(&mut world, |world, started| {
        let (cell, seed) = cell_and_seed(world, started);
        Some(around([0.9, 0.2, 0.9, 0.1][cell as usize], seed))
    });
    assert!(world.state.is_complete("s"));
    let open = vec![0, 2];
    assert_eq!(
        looks(&world, 0),
        [(2, open.clone()), (4, open.clone()), (7, open)]
    );
    assert_eq!(seeds(&world, 0), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!([seeds(&world, 1), seeds(&world, 3)], [[0, 1], [0, 1]]);
    world.restart();
}

#[test]
fn nothing_is_added_once_all_are_decided() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(ranked("s", 3, 20));
    train(&mut world, |world, started| {
        let (cell, seed) = cell_and_seed(world, started);
        Some(around(0.2 + 0.2 * f64::from(cell), seed))
    });
    assert!(world.state.is_complete("s"));
    assert_eq!(looks(&world, 0), [(2, vec![])]);
    assert_eq!(world.state.sweeps["s"].trials.len(), 3 * 2);
}

/// A column each, and the same training images within it.
#[test]
fn columns_are_ranked_by_themselves() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(yaml(
        "name: s\nrecipe: quick\nset: {dataset: digits, schedule: {constant: {epochs: 1}}}\n\
         seeds: {start: 2, until: decided, at_most: 4}\n\
         axes: {learning_rate: [0.1, 0.2], samples_per_class: [5, 10]}\n",
    ));
    train(&mut world, |world, started| {
        let (cell, seed) = cell_and_seed(world, started);
        // equal at 5 images per class, far apart at 10
        Some(around([0.5, 0.5, 0.5, 0.9][cell as usize], seed))
    });
    let rankings = &world.state.sweeps["s"].rankings.list;
    let cells: Vec<&[u32]> = rankings.iter().map(|one| one.cells.as_slice()).collect();
    assert_eq!(cells, [[0, 2], [1, 3]]);
    assert_eq!(looks(&world, 0).len(), 2);
    assert_eq!(looks(&world, 1), [(2, vec![])]);
    let count = |cell| seeds(&world, cell).len();
    assert_eq!([0, 1, 2, 3].map(count), [4, 2, 4, 2]);
}

#[test]
fn a_failed_trial_holds_nothing_up_and_its_retry_is_looked_at_again() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(ranked("s", 2, 4));
    train(&mut world, |world, started| {
        let (cell, seed) = cell_and_seed(world, started);
        ((cell, seed) != (1, 1)).then(|| around(0.5, seed))
    });
    // Only one cell could be compared.
    assert!(world.state.is_complete("s"));
    assert_eq!(looks(&world, 0), [(2, vec![])]);
    let retry = schedule::event::Input::Retry {
        sweep: "s".into(),
        which: Retry::Failed,
    };
    world.give(retry).expect("one has failed");
    train(&mut world, |world, started| {
        Some(around(0.5, cell_and_seed(world, started).1))
    });
    assert_eq!(looks(&world, 0), [(2, vec![0, 1]), (4, vec![0, 1])]);
    world.restart();
}

/// A cell with a search is trained with more seeds of the candidate that it chose.
#[test]
fn the_chosen_candidate_gets_the_further_seeds() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(yaml(
        "name: s\nrecipe: quick\nset: {dataset: digits, schedule: {constant: {epochs: 1}}}\n\
         seeds: {start: 2, until: decided, at_most: 3}\naxes: {momentum: [0.8, 0.9]}\n\
         search: {field: learning_rate, candidates: [0.1, 0.2], select: validation, holdout: 0.2, seeds: 1}\n",
    ));
    train(&mut world, |world, started| {
        let (_, candidate, _) = place(world, started);
        let better = if candidate == Some(1) { 0.2 } else { 0.0 };
        Some(around(0.5 + better, cell_and_seed(world, started).1))
    });
    assert_eq!(looks(&world, 0), [(2, vec![0, 1]), (3, vec![0, 1])]);
    let last = world.state.sweeps["s"].trials.last().expect("there are");
    assert_eq!((last.seed, last.candidate), (2, Some(1)));
    assert!(world.state.is_complete("s"));
}

#[test]
fn a_look_that_could_not_be_made_is_refused() {
    let mut world = World::new();
    world.join("w", 3);
    world.submit(ranked("s", 2, 4));
    let look = |cells: &[u32], seeds, undecided: &[u32]| Recorded {
        at: 0,
        event: Event::RankingLookedAt {
            sweep: "s".into(),
            cells: cells.to_vec(),
            seeds,
            undecided: undecided.to_vec(),
            trials: Vec::new(),
        },
    };
    let early = world.force(&look(&[0, 1], 2, &[])).expect_err("they run");
    assert!(early.reason.contains("have all ended"), "{early}");
    let mut running = world.started();
    while let Some(started) = running.pop() {
        world
            .fail(&started, FailureClass::NonFinite)
            .expect("it is current");
        running.extend(world.started());
    }
    let over = world.force(&look(&[0, 1], 4, &[])).expect_err("it is over");
    assert!(over.reason.contains("have all ended"), "{over}");
}
