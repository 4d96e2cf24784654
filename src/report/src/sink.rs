//! Destination of a report's files, piece by piece: the report of 100,000 trials is hundreds of
//! megabytes, which no process should have to hold at once.

use std::io::{self, BufWriter, Write};

/// Receives files one after another.
pub trait FileSink {
    /// Begins a file: all following pieces are its content, until the next file begins.
    fn begin(&mut self, name: &str) -> io::Result<()>;

    /// Receives the next piece, of at most [`MAX_PIECE`] bytes.
    fn write(&mut self, piece: &[u8]) -> io::Result<()>;
}

/// Largest piece of a file.
pub const MAX_PIECE: usize = 256 << 10;

/// Keeps everything in memory: for small reports and for tests.
impl FileSink for Vec<(String, Vec<u8>)> {
    fn begin(&mut self, name: &str) -> io::Result<()> {
        self.push((name.to_owned(), Vec::new()));
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if let Some((_, content)) = self.last_mut() {
            content.extend_from_slice(piece);
        }
        Ok(())
    }
}

/// A file that was written, as listed in manifest.json.
pub(crate) struct Written {
    pub name: String,
    pub bytes: u64,
    pub blake3: String,
}

/// Writes files to a sink and records their sizes and hashes.
pub(crate) struct Files<'s> {
    sink: &'s mut dyn FileSink,
    pub written: Vec<Written>,
}

impl<'s> Files<'s> {
    pub fn to(sink: &'s mut dyn FileSink) -> Self {
        Self {
            sink,
            written: Vec::new(),
        }
    }

    pub fn add(&mut self, name: String, content: &str) -> io::Result<()> {
        self.write(name, |out| out.write_all(content.as_bytes()))
    }

    pub fn write(
        &mut self,
        name: String,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sink.begin(&name)?;
        let pieces = Pieces {
            sink: &mut *self.sink,
            bytes: 0,
            hasher: blake3::Hasher::new(),
        };
        let mut out = BufWriter::with_capacity(MAX_PIECE, pieces);
        fill(&mut out)?;
        let Pieces { bytes, hasher, .. } =
            out.into_inner().map_err(io::IntoInnerError::into_error)?;
        self.written.push(Written {
            name,
            bytes,
            blake3: hasher.finalize().to_hex().to_string(),
        });
        Ok(())
    }
}

struct Pieces<'s> {
    sink: &'s mut dyn FileSink,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Write for Pieces<'_> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        for piece in content.chunks(MAX_PIECE) {
            self.sink.write(piece)?;
        }
        self.hasher.update(content);
        self.bytes += content.len() as u64;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
