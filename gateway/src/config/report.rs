//! What is wrong with a configuration, shown with the lines that are wrong.

use std::{collections::BTreeSet, fmt, io::IsTerminal};

use annotate_snippets::{AnnotationKind, Group, Level, Origin as Header, Renderer, Snippet};

use super::{source::Place, url::overwritten};

/// One error or warning.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    severity: Severity,
    code: &'static str,
    title: String,
    marks: Vec<Mark>,
    /// The file, where it has no text to show.
    file: Option<String>,
    help: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

/// An underlined span with a few words; the first of a report is what it is about.
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    place: Place,
    label: String,
}

impl Report {
    /// An error at `place`.
    pub(super) fn error(
        code: &'static str,
        title: impl Into<String>,
        place: &Place,
        label: impl Into<String>,
    ) -> Self {
        let mark = Mark {
            place: place.clone(),
            label: label.into(),
        };
        Report {
            severity: Severity::Error,
            code,
            title: title.into(),
            marks: vec![mark],
            file: None,
            help: vec![],
        }
    }

    /// An error about a file as a whole.
    pub(super) fn file_error(code: &'static str, title: impl Into<String>, file: impl Into<String>) -> Self {
        let file = Some(file.into());
        Report {
            severity: Severity::Error,
            code,
            title: title.into(),
            marks: vec![],
            file,
            help: vec![],
        }
    }

    /// A warning at `place`.
    pub(super) fn warning(
        code: &'static str,
        title: impl Into<String>,
        place: &Place,
        label: impl Into<String>,
    ) -> Self {
        Report {
            severity: Severity::Warning,
            ..Report::error(code, title, place, label)
        }
    }

    /// Adds another place that matters.
    pub(super) fn also(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.marks.push(Mark {
            place: place.clone(),
            label: label.into(),
        });
        self
    }

    /// Adds what to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Whether it keeps the configuration from being used.
    pub(super) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Order of the layers, then of the text.
    pub(super) fn position(&self) -> (usize, usize) {
        self.marks
            .first()
            .map_or((0, 0), |mark| (mark.place.source.rank, mark.place.span.start))
    }

    fn source_name(&self) -> &str {
        match (self.marks.first(), &self.file) {
            (Some(mark), _) => &mark.place.source.name,
            (None, Some(file)) => file,
            (None, None) => "",
        }
    }

    /// The message with its excerpt.
    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.title.as_str()).id(self.code));
        if let Some(file) = &self.file {
            group = group.element(Header::path(file.as_str()));
        }
        let mut rest: Vec<&Mark> = self.marks.iter().collect();
        while let Some(first) = rest.first() {
            let source = &first.place.source;
            let (here, elsewhere) = rest
                .iter()
                .partition::<Vec<&Mark>, _>(|mark| mark.place.source == *source);
            let annotations = here.into_iter().map(|mark| {
                let is_subject = self.marks.first().is_some_and(|subject| subject == mark);
                let kind = if is_subject {
                    AnnotationKind::Primary
                } else {
                    AnnotationKind::Context
                };
                kind.span(mark.place.span.clone())
                    .label((!mark.label.is_empty()).then_some(mark.label.as_str()))
            });
            let snippet = Snippet::source(overwritten(&source.text))
                .path(source.name.as_str())
                .annotations(annotations);
            group = group.element(snippet);
            rest = elsewhere;
        }
        let group = group.elements(self.help.iter().map(|help| Level::HELP.message(help.as_str())));
        renderer.render(&[group])
    }
}

/// Something that deserves a look but keeps nothing from running.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Warning(Report);

impl Warning {
    /// The warning in one line, for the log: what, and in brackets where.
    pub(crate) fn summary(&self) -> String {
        let place = self
            .0
            .marks
            .first()
            .map(|mark| mark.place.origin())
            .unwrap_or_default();
        format!("{} ({place})", self.0.title)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.render(&renderer(f.alternate())))
    }
}

/// Everything that is wrong with a configuration.
///
/// `Display` shows all of it without colour; `{:#}` uses the terminal's colours.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConfigErrors(Vec<Report>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let renderer = renderer(f.alternate());
        for report in &self.0 {
            writeln!(f, "{}\n", report.render(&renderer))?;
        }
        let mut seen = BTreeSet::new();
        let names = self
            .0
            .iter()
            .map(Report::source_name)
            .filter(|name| seen.insert(*name));
        let lines: Vec<String> = names
            .map(|name| {
                match self
                    .0
                    .iter()
                    .filter(|report| report.source_name() == name)
                    .count()
                {
                    1 => format!("{name}: 1 error"),
                    count => format!("{name}: {count} errors"),
                }
            })
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Sorts reports; warnings if there are no errors, else only the errors.
pub(super) fn settle(mut reports: Vec<Report>) -> Result<Vec<Warning>, ConfigErrors> {
    reports.sort_by_key(Report::position);
    let (errors, warnings): (Vec<_>, Vec<_>) = reports.into_iter().partition(Report::is_error);
    if errors.is_empty() {
        Ok(warnings.into_iter().map(Warning).collect())
    } else {
        Err(ConfigErrors(errors))
    }
}

/// Whether standard error shows colours: a terminal, and the user has not set `NO_COLOR`.
pub(crate) fn colours_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn renderer(coloured: bool) -> Renderer {
    if coloured {
        Renderer::styled()
    } else {
        Renderer::plain()
    }
}
