//! Sums as they occur in submit files: `2 * 1024`, `$(Process) % 4`, `1.5GB`.
//!
//! A small part of ClassAd expressions: integers, reals, `+ - * / %` and parentheses, with
//! ClassAd's integer division. Anything else is "not a number" to the caller.

/// A number as ClassAds have them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// 64 bit.
    Int(i64),
    /// Double.
    Real(f64),
}

impl Number {
    /// As a double.
    #[expect(clippy::cast_precision_loss, reason = "as ClassAds do")]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Real(x) => x,
        }
    }

    /// As an integer, cut towards zero; `None` outside 64 bits.
    #[expect(clippy::cast_possible_truncation, reason = "checked")]
    pub fn as_i64(self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(n),
            Self::Real(x) if x.is_finite() && x.abs() < 9.2e18 => Some(x as i64),
            Self::Real(_) => None,
        }
    }
}

/// The deepest nesting that is followed.
const DEPTH_MAX: usize = 64;

/// The value of `text`; `None` when it is not such a sum.
pub fn evaluate(text: &str) -> Option<Number> {
    let mut parser = Parser {
        rest: text.trim(),
        depth: 0,
    };
    let value = parser.sum()?;
    parser.rest.trim().is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn bump(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn sum(&mut self) -> Option<Number> {
        let mut left = self.product()?;
        while let Some(op @ ('+' | '-')) = self.peek() {
            self.bump();
            let right = self.product()?;
            left = combine(op, left, right)?;
        }
        Some(left)
    }

    fn product(&mut self) -> Option<Number> {
        let mut left = self.unary()?;
        while let Some(op @ ('*' | '/' | '%')) = self.peek() {
            self.bump();
            let right = self.unary()?;
            left = combine(op, left, right)?;
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Number> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        let value = match self.peek()? {
            '-' => {
                self.bump();
                combine('-', Number::Int(0), self.unary()?)
            }
            '+' => {
                self.bump();
                self.unary()
            }
            '(' => {
                self.bump();
                let value = self.sum()?;
                (self.peek()? == ')').then(|| self.bump())?;
                Some(value)
            }
            _ => self.number(),
        };
        self.depth -= 1;
        value
    }

    fn number(&mut self) -> Option<Number> {
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        end = digits(end);
        let mut real = false;
        if bytes.get(end) == Some(&b'.') {
            real = true;
            end = digits(end + 1);
        }
        if end > 0 && matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let after = digits(end + 1 + sign);
            if after > end + 1 + sign {
                real = true;
                end = after;
            }
        }
        let text = self.rest.get(..end)?;
        let value = if real {
            Number::Real(text.parse().ok()?)
        } else {
            Number::Int(text.parse().ok()?)
        };
        self.rest = self.rest.get(end..)?;
        // `2x` is no number.
        let glued = self.rest.chars().next();
        (!glued.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')).then_some(value)
    }
}

fn combine(op: char, left: Number, right: Number) -> Option<Number> {
    if let (Number::Int(a), Number::Int(b)) = (left, right) {
        return match op {
            '+' => a.checked_add(b),
            '-' => a.checked_sub(b),
            '*' => a.checked_mul(b),
            '/' => a.checked_div(b),
            '%' => a.checked_rem(b),
            _ => None,
        }
        .map(Number::Int);
    }
    let (a, b) = (left.as_f64(), right.as_f64());
    let value = match op {
        '+' => a + b,
        '-' => a - b,
        '*' => a * b,
        '/' => a / b,
        _ => return None,
    };
    value.is_finite().then_some(Number::Real(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_classad_rules() {
        for (text, expected) in [
            ("2 + 2", Some(Number::Int(4))),
            ("7/2", Some(Number::Int(3))),
            ("-7/2", Some(Number::Int(-3))),
            ("2*(3+4)%5", Some(Number::Int(4))),
            ("1.5*2", Some(Number::Real(3.0))),
            ("1/0", None),
            ("abc", None),
            ("", None),
            ("2x", None),
            ("1 2", None),
            ("9223372036854775807 + 1", None),
        ] {
            assert_eq!(evaluate(text), expected, "{text}");
        }
    }

    #[test]
    fn deep_nesting_ends_in_no_value() {
        assert_eq!(evaluate(&"(".repeat(100_000)), None);
        assert_eq!(evaluate(&"-".repeat(100_000)), None);
    }
}
