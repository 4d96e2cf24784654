//! The confusion matrix of a trial, from the file that `keep: [confusion]` keeps.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::frame::scrolled;

/// Classes of a drawn matrix at most; with more, the pairs that are confused most often are listed.
const MAX_CLASSES: usize = 40;
const MAX_PAIRS: usize = 60;

/// Evaluation images by class and predicted class.
#[derive(Debug, Default, PartialEq)]
struct Confusion {
    names: BTreeMap<usize, String>,
    images: BTreeMap<(usize, usize), u64>,
}

impl Confusion {
    /// Reads `confusion.csv`; `None` if the text has another form.
    fn read(text: &str) -> Option<Self> {
        let mut confusion = Self::default();
        for record in records(text).into_iter().skip(1) {
            let [label, label_name, predicted, predicted_name, images] =
                <[String; 5]>::try_from(record).ok()?;
            let (label, predicted) = (label.parse().ok()?, predicted.parse().ok()?);
            confusion.names.insert(label, label_name);
            confusion.names.insert(predicted, predicted_name);
            confusion
                .images
                .insert((label, predicted), images.parse().ok()?);
        }
        (!confusion.images.is_empty()).then_some(confusion)
    }

    fn images(&self, label: usize, predicted: usize) -> u64 {
        self.images.get(&(label, predicted)).copied().unwrap_or(0)
    }

    fn of_class(&self, label: usize) -> u64 {
        let of_class = self.images.range((label, 0)..=(label, usize::MAX));
        of_class.map(|(_, images)| images).sum()
    }
}

/// Splits comma-separated values as RFC 4180 quotes them.
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '"' if quoted && rest.peek() == Some(&'"') => field.extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            _ => field.push(character),
        }
    }
    if !record.is_empty() {
        record.push(field);
        records.push(record);
    }
    records
}

/// Draws the matrix of a file; nothing if it holds none.
pub fn confusion(text: &str) -> Markup {
    let Some(confusion) = Confusion::read(text) else {
        return html! {};
    };
    let is_small = confusion.names.len() <= MAX_CLASSES;
    html! {
        section {
            h2 { "Confusion matrix" }
            @if is_small {
                p.note { "Evaluation images after the last epoch: a row for each class, a column for each predicted class." }
                (scrolled("Confusion matrix", &matrix(&confusion)))
            } @else {
                p.note {
                    "The classes that are confused most often, of " (confusion.names.len())
                    "; " code { "trials/" } " of the results folder has the whole matrix."
                }
                (scrolled("Confusion matrix", &pairs(&confusion)))
            }
        }
    }
}

fn matrix(confusion: &Confusion) -> Markup {
    html! {
        table.confusion {
            thead { tr {
                th scope="col" { "Class" }
                @for name in confusion.names.values() { th.number scope="col" { (name) } }
            } }
            tbody {
                @for (&label, name) in &confusion.names {
                    tr {
                        th scope="row" { (name) }
                        @for &predicted in confusion.names.keys() {
                            @let images = confusion.images(label, predicted);
                            td class=(shade(images, confusion.of_class(label), label == predicted)) {
                                @if images > 0 { (images) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns the style classes of a field. A larger share of the class is darker.
fn shade(images: u64, of_class: u64, is_correct: bool) -> String {
    let tenths = (10 * images).div_ceil(of_class.max(1)).min(10);
    let kind = if is_correct { " correct" } else { "" };
    format!("number share{}{kind}", tenths.div_ceil(2))
}

fn pairs(confusion: &Confusion) -> Markup {
    let wrong = confusion
        .images
        .iter()
        .filter(|((label, predicted), _)| label != predicted);
    let mut wrong: Vec<_> = wrong.collect();
    wrong.sort_by_key(|(_, images)| std::cmp::Reverse(**images));
    html! {
        table {
            thead { tr {
                th scope="col" { "Class" } th scope="col" { "Predicted" }
                th.number scope="col" { "Images" } th.number scope="col" { "Of the class" }
            } }
            tbody {
                @for ((label, predicted), images) in wrong.into_iter().take(MAX_PAIRS) {
                    tr {
                        th scope="row" { (confusion.names[label]) }
                        td { (confusion.names[predicted]) }
                        td.number { (images) }
                        td.number { (confusion.of_class(*label)) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "label,label_name,predicted,predicted_name,images\n0,\"a, \"\"b\"\"\",0,\"a, \"\"b\"\"\",3\n\
                         0,\"a, \"\"b\"\"\",1,<c>,1\n1,<c>,1,<c>,4\n";

    #[test]
    fn a_matrix_has_the_counts_of_the_file_and_escaped_names() {
        let drawn = confusion(SMALL).into_string();
        assert!(
            drawn.contains("<th class=\"number\" scope=\"col\">&lt;c&gt;</th>"),
            "{drawn}"
        );
        let row = "<th scope=\"row\">a, &quot;b&quot;</th>\
                   <td class=\"number share4 correct\">3</td><td class=\"number share2\">1</td>";
        assert!(drawn.contains(row), "{drawn}");
        let second = "<th scope=\"row\">&lt;c&gt;</th>\
                      <td class=\"number share0\"></td><td class=\"number share5 correct\">4</td>";
        assert!(drawn.contains(second), "{drawn}");
    }

    #[test]
    fn many_classes_are_listed_by_how_often_they_are_confused() {
        let mut text = "label,label_name,predicted,predicted_name,images\n".to_owned();
        for class in 0..100 {
            text.push_str(&format!("{class},c{class},{class},c{class},9\n"));
            text.push_str(&format!(
                "{class},c{class},{},c{},{}\n",
                class ^ 1,
                class ^ 1,
                class + 1
            ));
        }
        let drawn = confusion(&text).into_string();
        let first = "<tbody><tr><th scope=\"row\">c99</th><td>c98</td><td class=\"number\">100</td>\
                     <td class=\"number\">109</td></tr>";
        assert!(drawn.contains(first), "{drawn}");
        assert_eq!(drawn.matches("<tr>").count(), 1 + MAX_PAIRS);
    }

    #[test]
    fn another_file_is_not_drawn() {
        for text in ["", "label\n", "a,b,c,d,e\nx,y,z,u,v\n", "a,b,c,d,e\n1,2\n"] {
            assert_eq!(confusion(text).into_string(), "", "{text:?}");
        }
    }
}
