//! Sweeps to test with, from YAML as a user would write it.

use sweep::Sweep;

/// Trials: `values` learning rates times `seeds` seeds on digits, with more lines of YAML.
pub fn grid(name: &str, values: u32, seeds: u64, more: &str) -> Sweep {
    let rates: Vec<String> = (1..=values)
        .map(|value| format!("{}", f64::from(value) / 100.0))
        .collect();
    let axis = format!("axes:\n  learning_rate: [{}]\n", rates.join(", "));
    yaml(&format!(
        "name: {name}\nrecipe: quick\nset: {{dataset: digits, schedule: {{constant: {{epochs: 1}}}}}}\nseeds: {seeds}\n{axis}{more}"
    ))
}

/// `values` learning rates that begin with 2 seeds and get up to `at_most` until they are ranked.
pub fn ranked(name: &str, values: u32, at_most: u64) -> Sweep {
    let rates: Vec<String> = (1..=values)
        .map(|value| format!("{}", f64::from(value) / 100.0))
        .collect();
    let rates = rates.join(", ");
    yaml(&format!(
        "name: {name}\nrecipe: quick\nset: {{dataset: digits, schedule: {{constant: {{epochs: 1}}}}}}\n\
         seeds: {{start: 2, until: decided, at_most: {at_most}}}\naxes:\n  learning_rate: [{rates}]\n"
    ))
}

/// A search over `candidates` learning rates for each of `cells` numbers of images per class.
pub fn search(name: &str, cells: u32, candidates: u32, seeds: u64) -> Sweep {
    let rates: Vec<String> = (1..=candidates)
        .map(|value| format!("{}", f64::from(value) / 100.0))
        .collect();
    let kept: Vec<String> = (1..=cells).map(|cell| (cell * 10).to_string()).collect();
    yaml(&format!(
        "name: {name}\nrecipe: quick\nset: {{dataset: digits, schedule: {{constant: {{epochs: 1}}}}}}\nseeds: {seeds}\naxes:\n  samples_per_class: [{}]\n\
         search:\n  field: learning_rate\n  candidates: [{}]\n  select: validation\n  holdout: 0.2\n  seeds: 2\n",
        kept.join(", "),
        rates.join(", ")
    ))
}

pub fn yaml(text: &str) -> Sweep {
    let no_file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    match sweep::parse("test.yaml", text, &no_file) {
        Ok(sweep) => sweep,
        Err(errors) => panic!("{errors:?}\n{text}"),
    }
}
