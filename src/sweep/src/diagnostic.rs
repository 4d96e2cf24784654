//! Problems of a sweep file, reported with all that is needed to fix them: file, line, column, an
//! excerpt, and a fix.
//!
//! All problems of a file are collected before any is shown. miette draws them; the caller decides
//! on colours. See `yaml.rs` for the origin of spans.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode,
};

/// A file that was read, such as the sweep itself.
pub type Source = Arc<NamedSource<String>>;

/// Returns a text with the name that it has in messages.
pub fn source(name: &str, text: impl Into<String>) -> Source {
    Arc::new(NamedSource::new(name, text.into()))
}

/// One problem at one place.
#[derive(Clone, Debug)]
pub struct Problem {
    source: Source,
    message: String,
    /// Byte ranges into the source with their labels; the first is the place of the problem.
    labels: Vec<(Range<usize>, String)>,
    help: Option<String>,
}

impl Problem {
    pub fn new(source: &Source, at: Range<usize>, message: impl Into<String>) -> Self {
        let mut problem = Self {
            source: Arc::clone(source),
            message: message.into(),
            labels: Vec::new(),
            help: None,
        };
        problem.labels.push((problem.clamp(at), String::new()));
        problem
    }

    /// Labels the place of the problem.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.labels[0].1 = label.into();
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Adds a second place in the same file.
    #[must_use]
    pub fn also(mut self, at: Range<usize>, label: impl Into<String>) -> Self {
        self.labels.push((self.clamp(at), label.into()));
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    pub fn file(&self) -> &str {
        self.source.name()
    }

    /// Returns line and column, both from 1; columns count characters.
    pub fn position(&self) -> (usize, usize) {
        let text = self.source.inner();
        let before = &text[..self.labels[0].0.start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    /// Limits a span to the text. Spans come from a parser and from arithmetic; a wrong one must
    /// not suppress the message.
    fn clamp(&self, at: Range<usize>) -> Range<usize> {
        let text = self.source.inner();
        let border = |mut index: usize| {
            index = index.min(text.len());
            while !text.is_char_boundary(index) {
                index -= 1;
            }
            index
        };
        let start = border(at.start);
        // One line of excerpt is clearer than several.
        let line_end = text[start..]
            .find(['\n', '\r'])
            .map_or(text.len(), |newline| start + newline);
        start..border(at.end).clamp(start, line_end)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let spans = self.labels.iter().enumerate().map(|(index, (at, label))| {
            let label = (!label.is_empty()).then(|| label.clone());
            match index {
                0 => LabeledSpan::new_primary_with_span(label, (at.start, at.len())),
                _ => LabeledSpan::new(label, at.start, at.len()),
            }
        });
        Some(Box::new(spans))
    }
}

/// All problems of a sweep file, in the order of its lines. Never empty.
#[derive(Clone, Debug)]
pub struct Errors {
    problems: Vec<Problem>,
}

/// Style of [`Errors::render`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Colours and line-drawing characters, for a terminal. Otherwise ASCII only.
    pub colour: bool,
    /// Width in columns.
    pub width: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            colour: false,
            width: 100,
        }
    }
}

impl Errors {
    /// Returns `None` if there are no problems.
    pub fn of(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by(|one, other| {
            (one.file(), one.labels[0].0.start).cmp(&(other.file(), other.labels[0].0.start))
        });
        (!problems.is_empty()).then_some(Self { problems })
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Draws every problem with its excerpt, then the number of problems. Ends with a newline.
    pub fn render(&self, style: Style) -> String {
        let theme = if style.colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::none()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(style.width.max(40))
            .with_links(false);
        let mut text = String::new();
        for problem in &self.problems {
            // Writing to a string cannot fail; if drawing fails, the plain line remains.
            if handler.render_report(&mut text, problem).is_err() {
                text.push_str(&self.line(problem));
            }
            text.push('\n');
        }
        if self.problems.len() > 1 {
            text.push_str(&format!("{} problems\n", self.problems.len()));
        }
        text
    }

    fn line(&self, problem: &Problem) -> String {
        let (line, column) = problem.position();
        let help = problem
            .help
            .as_ref()
            .map_or_else(String::new, |help| format!(" ({help})"));
        format!(
            "{}:{line}:{column}: {}{help}",
            problem.file(),
            problem.message
        )
    }
}

/// Formats one line per problem, for logs: `FILE:LINE:COLUMN: message (what to do)`.
impl fmt::Display for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            formatter.write_str(&self.line(problem))?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl From<Problem> for Errors {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}
