//! `orchestrator embed`: the class embeddings of a hierarchy, in a file that every safetensors
//! reader opens.

use std::collections::HashMap;

use data::hierarchy::{ColumnOrder, Hierarchy};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::json;
use sweep::with_causes;

use crate::args::EmbedArgs;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};

pub fn embed(arguments: &EmbedArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let order = if arguments.child_parent {
        ColumnOrder::ChildParent
    } else {
        ColumnOrder::ParentChild
    };
    let bad = |error: data::hierarchy::Error| ExpectedError::BadInput(with_causes(&error));
    let hierarchy = Hierarchy::load(&arguments.hierarchy, order).map_err(bad)?;
    let classes = hierarchy.leaves();
    let similarity = hierarchy.similarity(&classes).map_err(bad)?;
    let embeddings = data::hierarchy::unit_sphere(&similarity, classes.len()).map_err(|row| {
        bad(data::hierarchy::Error::NoEmbedding {
            name: classes[row].to_owned(),
        })
    })?;
    let shape = vec![classes.len(), classes.len()];
    let mut tensors = vec![("embeddings", bytes(&embeddings))];
    if arguments.similarity {
        tensors.push(("similarity", bytes(&similarity)));
    }
    let views = tensors.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes)
            .expect("as many bytes as the shape needs");
        (*name, view)
    });
    let metadata = HashMap::from([
        ("classes".to_owned(), json!(classes).to_string()),
        (
            "hierarchy".to_owned(),
            arguments.hierarchy.display().to_string(),
        ),
    ]);
    serialize_to_file(views, Some(metadata), &arguments.out).map_err(|error| {
        ExpectedError::File {
            action: "write",
            path: arguments.out.clone(),
            source: std::io::Error::other(error),
        }
    })?;
    let num_classes = classes.len();
    output.print(
        || {
            format!(
                "{num_classes} classes, height {}: {}\n",
                hierarchy.max_height(),
                arguments.out.display()
            )
        },
        || {
            json!({
                "schema": SCHEMA,
                "classes": classes,
                "height": hierarchy.max_height(),
                "file": arguments.out,
            })
        },
    )?;
    Ok(Outcome::Complete)
}

fn bytes(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| (value as f32).to_le_bytes())
        .collect()
}
