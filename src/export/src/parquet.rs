//! Learning curves as Parquet: the columns of curves.csv, with types.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use crate::files::Partial;
use crate::trial::Trial;
use crate::{Error, Exporter};

/// Number of rows that are collected before they are written.
const ROW_GROUP: usize = 1 << 17;

/// Columns before those of the axes, and after them.
const BEFORE_AXES: [&str; 3] = ["sweep", "trial", "cell"];
const AFTER_AXES: [&str; 6] = ["seed", "role", "candidate", "epoch", "name", "value"];

/// `curves.parquet`, which each pass writes again.
pub struct Curves {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    axes: Vec<String>,
    writer: SerializedFileWriter<std::fs::File>,
    partial: Partial,
    rows: Rows,
}

impl Curves {
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("curves.parquet"),
            open: None,
        }
    }
}

impl Exporter for Curves {
    fn trial(&mut self, trial: &Trial) -> Result<(), Error> {
        let open = match &mut self.open {
            Some(open) => open,
            closed @ None => closed.insert(Open::new(&self.path, trial)?),
        };
        open.rows.add(trial, &open.axes);
        if open.rows.value.len() >= ROW_GROUP {
            open.rows.write(&mut open.writer)?;
        }
        Ok(())
    }

    /// Without a trial there are no axes, and no file.
    fn finish(&mut self, _complete: bool) -> Result<(), Error> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        open.rows.write(&mut open.writer)?;
        open.writer.close()?;
        open.partial.finish(&self.path)
    }
}

impl Open {
    fn new(path: &Path, trial: &Trial) -> Result<Self, Error> {
        let mut partial = Partial::beside(path)?;
        let file = partial.file().try_clone().map_err(Error::file(path))?;
        let axes: Vec<String> = trial.axes.keys().cloned().collect();
        let properties = WriterProperties::builder().set_created_by("orchestrator".to_owned());
        let writer = SerializedFileWriter::new(file, schema(&axes)?, Arc::new(properties.build()))?;
        let rows = Rows {
            axes: vec![Vec::new(); axes.len()],
            ..Rows::default()
        };
        Ok(Self {
            axes,
            writer,
            partial,
            rows,
        })
    }
}

/// Returns the columns. An axis that is called like another column has `axis_` in front, as in
/// curves.csv.
fn schema(axes: &[String]) -> Result<Arc<Type>, ParquetError> {
    let mut taken: BTreeSet<String> = [&BEFORE_AXES[..], &AFTER_AXES]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let axis = |name: &String| {
        let mut name = name.clone();
        while !taken.insert(name.clone()) {
            name = format!("axis_{name}");
        }
        name
    };
    let axes: Vec<String> = axes.iter().map(axis).collect();
    let column = |name: &str| {
        let (physical, converted) = match name {
            "seed" => (Physical::INT64, ConvertedType::UINT_64),
            "epoch" => (Physical::INT32, ConvertedType::NONE),
            "value" => (Physical::DOUBLE, ConvertedType::NONE),
            _ => (Physical::BYTE_ARRAY, ConvertedType::UTF8),
        };
        let repetition = match name {
            "candidate" => Repetition::OPTIONAL,
            _ => Repetition::REQUIRED,
        };
        let column = Type::primitive_type_builder(name, physical)
            .with_converted_type(converted)
            .with_repetition(repetition)
            .build();
        column.map(Arc::new)
    };
    let names = BEFORE_AXES
        .into_iter()
        .chain(axes.iter().map(String::as_str))
        .chain(AFTER_AXES);
    let fields = names.map(column).collect::<Result<Vec<_>, _>>()?;
    let schema = Type::group_type_builder("curves")
        .with_fields(fields)
        .build()?;
    Ok(Arc::new(schema))
}

/// Rows that wait to be written, column by column. Texts share their memory.
#[derive(Default)]
struct Rows {
    sweep: Vec<ByteArray>,
    trial: Vec<ByteArray>,
    cell: Vec<ByteArray>,
    axes: Vec<Vec<ByteArray>>,
    seed: Vec<i64>,
    role: Vec<ByteArray>,
    /// Values that there are, and for each row whether it has one.
    candidate: Vec<ByteArray>,
    has_candidate: Vec<i16>,
    epoch: Vec<i32>,
    name: Vec<ByteArray>,
    value: Vec<f64>,
}

impl Rows {
    fn add(&mut self, trial: &Trial, axes: &[String]) {
        let text = |text: &str| ByteArray::from(text);
        let identity =
            [&trial.sweep, &trial.trial, &trial.cell, &trial.role].map(|part| text(part));
        let candidate = trial
            .candidate
            .as_ref()
            .map(|value| text(&value.to_string()));
        let values: Vec<ByteArray> = axes
            .iter()
            .map(|axis| text(trial.axes.get(axis).map_or("", String::as_str)))
            .collect();
        for (epoch, numbers) in trial.curve.iter().enumerate() {
            for (name, value) in numbers {
                let [sweep, id, cell, role] = identity.clone();
                self.sweep.push(sweep);
                self.trial.push(id);
                self.cell.push(cell);
                for (column, value) in self.axes.iter_mut().zip(&values) {
                    column.push(value.clone());
                }
                // the bits of a large seed: the column is of unsigned numbers
                self.seed.push(trial.seed as i64);
                self.role.push(role);
                self.has_candidate.push(i16::from(candidate.is_some()));
                self.candidate.extend(candidate.clone());
                self.epoch.push(epoch as i32);
                self.name.push(text(name));
                self.value.push(*value);
            }
        }
    }

    /// Writes the rows as one group, and forgets them.
    fn write(
        &mut self,
        writer: &mut SerializedFileWriter<std::fs::File>,
    ) -> Result<(), ParquetError> {
        if self.value.is_empty() {
            return Ok(());
        }
        let mut group = writer.next_row_group()?;
        texts(&mut group, &mut self.sweep, None)?;
        texts(&mut group, &mut self.trial, None)?;
        texts(&mut group, &mut self.cell, None)?;
        for column in &mut self.axes {
            texts(&mut group, column, None)?;
        }
        numbers::<Int64Type>(&mut group, &mut self.seed)?;
        texts(&mut group, &mut self.role, None)?;
        texts(&mut group, &mut self.candidate, Some(&self.has_candidate))?;
        self.has_candidate.clear();
        numbers::<Int32Type>(&mut group, &mut self.epoch)?;
        texts(&mut group, &mut self.name, None)?;
        numbers::<DoubleType>(&mut group, &mut self.value)?;
        group.close().map(drop)
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, std::fs::File>;

fn texts(
    group: &mut Group<'_>,
    values: &mut Vec<ByteArray>,
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.ok_or_else(no_column)?;
    column
        .typed::<ByteArrayType>()
        .write_batch(values, levels, None)?;
    values.clear();
    column.close()
}

fn numbers<T: parquet::data_type::DataType>(
    group: &mut Group<'_>,
    values: &mut Vec<T::T>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.ok_or_else(no_column)?;
    column.typed::<T>().write_batch(values, None, None)?;
    values.clear();
    column.close()
}

fn no_column() -> ParquetError {
    ParquetError::General("the schema has fewer columns than the rows".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::tests::trial;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    #[test]
    fn a_file_reads_back_row_by_row() {
        let place = tempfile::tempdir().unwrap();
        let mut curves = Curves::new(place.path());
        let mut searched = trial();
        searched.axes.insert("epoch".to_owned(), "late".to_owned());
        searched.candidate = Some(0.05.into());
        searched.role = "search".to_owned();
        searched.seed = u64::MAX;
        let mut plain = searched.clone();
        plain.candidate = None;
        plain.seed = 3;
        // twice: a pass starts over
        for _ in 0..2 {
            curves.trial(&searched).unwrap();
            curves.trial(&plain).unwrap();
            curves.finish(true).unwrap();
        }
        let file = std::fs::File::open(place.path().join("curves.parquet")).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let rows: Vec<String> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().to_string())
            .collect();
        assert_eq!(rows.len(), 6);
        assert_eq!(
            rows[0],
            "{sweep: \"demo\", trial: \"t0123456789abcdef\", cell: \"cos/10\", bundle: \"wide\", axis_epoch: \"late\", \
             loss: \"cos\", seed: 18446744073709551615, role: \"search\", candidate: \"0.05\", epoch: 0, \
             name: \"accuracy\", value: 0.7}"
        );
        assert!(rows[5].ends_with("seed: 3, role: \"search\", candidate: null, epoch: 1, name: \"train_loss\", value: 0.1}"));
    }
}
