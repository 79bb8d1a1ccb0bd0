//! Something that is measured: its name, its unit, and which way is better.

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Micros,
    Nanos,
    MegabytesPerSecond,
    PerSecond,
    /// Processor seconds per gigabyte.
    SecondsPerGigabyte,
    /// Processor milliseconds per thousand.
    MillisPerThousand,
    Megabytes,
    Kibibytes,
    Cores,
    /// How many, on average.
    Count,
    /// One value per another of the same kind, as of two latencies.
    Times,
    /// The same where more is better, as of two rates.
    Share,
}

/// A figure of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: Unit,
    /// One of the few that a reader in a hurry wants.
    pub(super) is_headline: bool,
}

/// What was seen of a figure.
pub(super) type Sample = (Figure, f64);

impl Figure {
    pub(super) fn new(name: impl Into<String>, unit: Unit) -> Figure {
        Figure {
            name: name.into(),
            unit,
            is_headline: false,
        }
    }

    pub(super) fn headline(mut self, is_headline: bool) -> Figure {
        self.is_headline = is_headline;
        self
    }

    /// A sample of it.
    pub(super) fn of(self, value: f64) -> Sample {
        (self, value)
    }

    /// The name with its unit.
    pub(super) fn label(&self) -> String {
        match self.unit.text() {
            "" => self.name.clone(),
            unit => format!("{}, {unit}", self.name),
        }
    }
}

impl Unit {
    pub(super) fn text(self) -> &'static str {
        match self {
            Unit::Micros => "µs",
            Unit::Nanos => "ns",
            Unit::MegabytesPerSecond => "MB/s",
            Unit::PerSecond => "1/s",
            Unit::SecondsPerGigabyte => "CPU s/GB",
            Unit::MillisPerThousand => "CPU ms/1,000",
            Unit::Megabytes => "MB",
            Unit::Kibibytes => "KiB",
            Unit::Cores => "cores",
            Unit::Count => "",
            Unit::Times | Unit::Share => "×",
        }
    }

    /// Whether a smaller value is the better one.
    pub(super) fn is_less_better(self) -> bool {
        !matches!(
            self,
            Unit::MegabytesPerSecond | Unit::PerSecond | Unit::Share
        )
    }

    /// A value as the table shows it.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Unit::Nanos | Unit::PerSecond | Unit::MegabytesPerSecond => {
                format!("{value:.0}")
            }
            Unit::Micros | Unit::Megabytes | Unit::Kibibytes | Unit::Count => format!("{value:.1}"),
            Unit::MillisPerThousand => format!("{value:.1}"),
            Unit::SecondsPerGigabyte | Unit::Cores | Unit::Times | Unit::Share => {
                format!("{value:.2}")
            }
        }
    }
}
