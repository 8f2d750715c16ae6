//! Amounts in thousandths.

use std::fmt;

/// A non-negative amount in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fixed(u64);

/// Why a number is no amount.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{value} is no amount; it must be between 0 and {max} with at most three decimals kept")]
pub struct AmountError {
    value: f64,
    max: u64,
}

impl Fixed {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The largest amount accepted from outside, in whole units: 10^12, a thousand times the
    /// memory in MiB of the largest machines, and small enough that the sum over a million
    /// agents cannot overflow.
    pub const MAX_UNITS: u64 = 1_000_000_000_000;

    /// `units` whole units.
    pub const fn units(units: u64) -> Self {
        Self(units * 1000)
    }

    /// `thousandths` thousandths of a unit.
    pub const fn from_thousandths(thousandths: u64) -> Self {
        Self(thousandths)
    }

    /// Rounds to thousandths, as Mesos does.
    ///
    /// # Errors
    /// [`AmountError`] for NaN, infinities, negative numbers and more than [`Self::MAX_UNITS`].
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range is checked first"
    )]
    pub fn from_f64(value: f64) -> Result<Self, AmountError> {
        if !(0.0..=Self::MAX_UNITS as f64).contains(&value) {
            return Err(AmountError {
                value,
                max: Self::MAX_UNITS,
            });
        }
        Ok(Self((value * 1000.0).round() as u64))
    }

    /// Thousandths of a unit.
    pub const fn thousandths(self) -> u64 {
        self.0
    }

    /// Whole units, rounded down.
    pub const fn whole(self) -> u64 {
        self.0 / 1000
    }

    /// As the wire writes it.
    #[expect(
        clippy::cast_precision_loss,
        reason = "amounts stay far below 2^53 thousandths"
    )]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// `self - other`, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self + other`, or the largest representable amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// No amount at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Fixed {
    /// Without trailing zeros: `1.5`, `64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}
