//! Ratios that no amount or weight can overflow.

use std::cmp::Ordering;

use allotment_allocator::Share;

/// `numerator / denominator`; nothing of nothing is 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) numerator: u128,
    pub(crate) denominator: u128,
}

impl Ratio {
    pub(crate) const ZERO: Self = Self {
        numerator: 0,
        denominator: 1,
    };

    pub(crate) fn cmp(self, other: Self) -> Ordering {
        self.cmp_weighted(1, other, 1)
    }

    /// Compares `self / weight` with `other / other_weight`, crosswise.
    pub(crate) fn cmp_weighted(self, weight: u64, other: Self, other_weight: u64) -> Ordering {
        let left = [self.numerator, other.denominator, other_weight.into()];
        let right = [other.numerator, self.denominator, weight.into()];
        product(&left).cmp(&product(&right))
    }

    pub(crate) fn as_share(self) -> Share {
        let narrow = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        Share {
            numerator: narrow(self.numerator),
            denominator: narrow(self.denominator),
        }
    }
}

/// The product in digits of base 2^32, the highest first, always as many.
fn product(factors: &[u128]) -> [u32; 12] {
    let mut digits = [0_u32; 12];
    digits[11] = 1;
    for factor in factors {
        let mut sum = [0_u32; 12];
        for shift in 0..4 {
            let part = (factor >> (32 * shift)) & 0xffff_ffff;
            let mut carry = 0_u128;
            for at in (shift..12).rev() {
                let place = at - shift;
                let value = u128::from(digits[at]) * part + u128::from(sum[place]) + carry;
                sum[place] = u32::try_from(value & 0xffff_ffff).expect("masked");
                carry = value >> 32;
            }
        }
        digits = sum;
    }
    digits
}

#[test]
fn products_wider_than_any_integer_compare_right() {
    let ratio = |numerator, denominator| Ratio {
        numerator,
        denominator,
    };
    let huge = u128::from(u64::MAX) << 20;
    let almost = ratio(huge - 1, huge);
    assert_eq!(ratio(huge, huge).cmp(almost), Ordering::Greater);
    assert_eq!(
        almost.cmp_weighted(u64::MAX, ratio(huge, huge), u64::MAX),
        Ordering::Less
    );
    assert_eq!(ratio(1, 3).cmp_weighted(1, ratio(2, 3), 2), Ordering::Equal);
    assert_eq!(
        ratio(1, 1).cmp_weighted(u64::MAX, ratio(1, 1), u64::MAX - 1),
        Ordering::Less
    );
}
