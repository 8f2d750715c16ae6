//! Times, counts and random amounts as a scenario file writes them.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time with its unit: `"500ms"`, `"10s"`, `"5m"`, `"2h"`, `"1.5d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The longest time a scenario may name: ten years.
const SPAN_MAX_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

impl Span {
    fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let scale = match unit.trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => {
                return Err(format!(
                    "{text:?} is no time; write a number and one of ms, s, m, h, d, as in \"10s\""
                ));
            }
        };
        let seconds = number
            .parse::<f64>()
            .map_err(|_| format!("{text:?} is no time: {number:?} is no number"))?
            * scale;
        if seconds > SPAN_MAX_SECONDS {
            return Err(format!("{text:?} is longer than ten years (3650d)"));
        }
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| format!("{text:?} is no time"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        for (unit, scale) in [("d", 86_400.0), ("h", 3600.0), ("m", 60.0)] {
            if seconds >= scale && (seconds / scale).fract() == 0.0 {
                return write!(f, "{}{unit}", seconds / scale);
            }
        }
        write!(f, "{seconds}s")
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A plain number, such as tasks per job.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
pub struct Number(pub f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a [`Distribution`] is over.
pub trait Amount: Copy + PartialOrd + fmt::Display {
    /// In seconds, or as it is.
    fn value(self) -> f64;
}

impl Amount for Span {
    fn value(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl Amount for Number {
    fn value(self) -> f64 {
        self.0
    }
}

/// How amounts are drawn; never negative.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Distribution<T> {
    /// Always this.
    Fixed(T),
    /// Exponential with this mean.
    Exponential(T),
    /// Pareto: heavy-tailed, no mean when `index` ≤ 1.
    Pareto {
        /// The least value.
        minimum: T,
        /// The tail index; the smaller, the heavier.
        index: f64,
        /// Values above are cut to it.
        maximum: Option<T>,
    },
    /// Lognormal.
    Lognormal {
        /// Half of the values lie below.
        median: T,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
    /// An empirical table of `[part, value]`: this part of all values is no larger than the
    /// value. Between two rows it is linear; below the first and above the last the value stays.
    Quantiles(Vec<(f64, T)>),
}

impl<T: Amount> Distribution<T> {
    /// Draws one amount.
    pub(super) fn draw(&self, rng: &mut Rng) -> f64 {
        match self {
            Self::Fixed(value) => value.value(),
            Self::Exponential(mean) => mean.value() * exponential(rng),
            Self::Pareto {
                minimum,
                index,
                maximum,
            } => {
                let drawn = minimum.value() * (exponential(rng) / index).exp();
                maximum.map_or(drawn, |maximum| drawn.min(maximum.value()))
            }
            Self::Lognormal { median, sigma } => median.value() * (sigma * normal(rng)).exp(),
            Self::Quantiles(table) => quantile(table, rng.f64()),
        }
    }

    /// What makes no sense in it, in words; both values of a wrong relation.
    pub(super) fn check(&self) -> Result<(), String> {
        let positive = |name: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(format!("{name} {value} must be above 0"))
            }
        };
        match self {
            Self::Fixed(value) => positive("the fixed value", value.value()),
            Self::Exponential(mean) => positive("the mean", mean.value()),
            Self::Pareto {
                minimum,
                index,
                maximum,
            } => {
                positive("minimum", minimum.value())?;
                positive("index", *index)?;
                match maximum {
                    Some(maximum) if maximum < minimum => Err(format!(
                        "maximum {maximum} must not be below minimum {minimum}"
                    )),
                    _ => Ok(()),
                }
            }
            Self::Lognormal { median, sigma } => {
                positive("median", median.value())?;
                if (0.0..=10.0).contains(sigma) {
                    Ok(())
                } else {
                    Err(format!("sigma {sigma} must lie between 0 and 10"))
                }
            }
            Self::Quantiles(table) => check_table(table),
        }
    }
}

fn check_table<T: Amount>(table: &[(f64, T)]) -> Result<(), String> {
    let Some((_, last)) = table.last() else {
        return Err("the quantile table has no rows; write [part, value] pairs".to_owned());
    };
    if last.value() <= 0.0 {
        return Err(format!("the largest value {last} must be above 0"));
    }
    if let Some((part, _)) = table.iter().find(|(part, _)| !(0.0..=1.0).contains(part)) {
        return Err(format!("part {part} must lie between 0 and 1"));
    }
    for pair in table.windows(2) {
        if let [(low, below), (high, above)] = pair
            && (low >= high || below > above)
        {
            return Err(format!(
                "the rows must ascend, but [{low}, {below}] comes before [{high}, {above}]"
            ));
        }
    }
    Ok(())
}

fn quantile<T: Amount>(table: &[(f64, T)], part: f64) -> f64 {
    let mut before: Option<(f64, f64)> = None;
    for (upper, value) in table {
        let value = value.value();
        if part <= *upper {
            return match before {
                None => value,
                Some((lower, below)) => below + (value - below) * (part - lower) / (upper - lower),
            };
        }
        before = Some((*upper, value));
    }
    before.map_or(0.0, |(_, value)| value)
}

fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

/// Box and Muller's transformation.
fn normal(rng: &mut Rng) -> f64 {
    (2.0 * exponential(rng)).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn sorted(distribution: &Distribution<Number>) -> Vec<f64> {
        let mut rng = rng::stream(1, "amounts");
        let mut drawn: Vec<f64> = (0..20_001).map(|_| distribution.draw(&mut rng)).collect();
        drawn.sort_by(f64::total_cmp);
        drawn
    }

    fn close(value: f64, to: f64) {
        assert!((value / to - 1.0).abs() < 0.05, "{value} is not about {to}");
    }

    #[test]
    fn times_are_numbers_with_a_unit() {
        let parse = |text| Span::parse(text).map(|span| span.0);
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1.5h"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "10", "s", "-3s", "1e3s", "10 weeks", "9999999d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Span(Duration::from_secs(7200)).to_string(), "2h");
        assert_eq!(Span(Duration::from_millis(1500)).to_string(), "1.5s");
    }

    #[test]
    fn what_is_drawn_has_the_shape_that_was_asked_for() {
        let exponential = sorted(&Distribution::Exponential(Number(100.0)));
        close(exponential.iter().sum::<f64>() / 20_001.0, 100.0);
        close(exponential[10_000], 100.0 * std::f64::consts::LN_2);

        let pareto = sorted(&Distribution::Pareto {
            minimum: Number(2.0),
            index: 1.5,
            maximum: Some(Number(50.0)),
        });
        close(pareto[10_000], 2.0 * 2.0_f64.powf(1.0 / 1.5));
        assert!(pareto[0] >= 2.0 && pareto[20_000] <= 50.0);

        let lognormal = sorted(&Distribution::Lognormal {
            median: Number(60.0),
            sigma: 1.0,
        });
        close(lognormal[10_000], 60.0);
        close(lognormal[16_827], 60.0 * std::f64::consts::E);
    }

    #[test]
    fn a_quantile_table_keeps_its_spike_and_its_tail() {
        let table = vec![
            (0.876, Number(1.0)),
            (0.95, Number(61.0)),
            (0.99, Number(646.0)),
        ];
        let drawn = sorted(&Distribution::Quantiles(table));
        close(drawn[17_500], 1.0);
        close(drawn[19_000], 61.0);
        close(drawn[20_000], 646.0);
    }

    #[test]
    fn nonsense_is_refused_with_both_values() {
        let pareto = Distribution::Pareto {
            minimum: Number(5.0),
            index: 1.0,
            maximum: Some(Number(2.0)),
        };
        let error = pareto.check().unwrap_err();
        assert!(error.contains("maximum 2") && error.contains("minimum 5"));
        let table = Distribution::Quantiles(vec![(0.5, Number(9.0)), (0.9, Number(3.0))]);
        let error = table.check().unwrap_err();
        assert!(
            error.contains("[0.5, 9]") && error.contains("[0.9, 3]"),
            "{error}"
        );
        assert!(Distribution::Fixed(Number(0.0)).check().is_err());
        assert!(Distribution::Exponential(Number(f64::NAN)).check().is_err());
    }
}
