//! Numbers as C's `printf` shows them, for `$INT` and `$REAL`.

use super::arith::Number;

/// The parts of `%[flags][width][.precision]letter`.
struct Format<'a> {
    before: &'a str,
    minus: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
    letter: char,
    after: &'a str,
}

impl<'a> Format<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        const WIDTH_MAX: usize = 200;
        let (before, rest) = text.split_once('%')?;
        let flags = rest.find(|c| !"-+0".contains(c))?;
        let (flags, rest) = rest.split_at(flags);
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (width, rest) = rest.split_at(end);
        let (precision, rest) = match rest.strip_prefix('.') {
            Some(rest) => {
                let end = rest.find(|c: char| !c.is_ascii_digit())?;
                let (digits, rest) = rest.split_at(end);
                (
                    Some(if digits.is_empty() {
                        0
                    } else {
                        digits.parse().ok()?
                    }),
                    rest,
                )
            }
            None => (None, rest),
        };
        let rest = rest.trim_start_matches('l');
        let letter = rest.chars().next()?;
        let after = rest.get(letter.len_utf8()..)?;
        let width: usize = if width.is_empty() {
            0
        } else {
            width.parse().ok()?
        };
        (width <= WIDTH_MAX && precision.is_none_or(|p| p <= WIDTH_MAX) && !after.contains('%'))
            .then_some(Self {
                before,
                minus: flags.contains('-'),
                zero: flags.contains('0'),
                plus: flags.contains('+'),
                width,
                precision,
                letter,
                after,
            })
    }

    fn pad(&self, negative: bool, digits: &str) -> String {
        let sign = match (negative, self.plus) {
            (true, _) => "-",
            (false, true) => "+",
            (false, false) => "",
        };
        let fill = self.width.saturating_sub(sign.len() + digits.len());
        let (before, after) = (self.before, self.after);
        if self.minus {
            format!("{before}{sign}{digits}{}{after}", " ".repeat(fill))
        } else if self.zero {
            format!("{before}{sign}{}{digits}{after}", "0".repeat(fill))
        } else {
            format!("{before}{}{sign}{digits}{after}", " ".repeat(fill))
        }
    }
}

pub(super) fn format_int(number: i64, format: &str) -> Option<String> {
    let format = Format::parse(format)?;
    let size = number.unsigned_abs();
    let (negative, mut digits) = match format.letter {
        'd' | 'i' => (number < 0, size.to_string()),
        'u' => (false, number.cast_unsigned().to_string()),
        'x' => (false, format!("{number:x}")),
        'X' => (false, format!("{number:X}")),
        'o' => (false, format!("{number:o}")),
        _ => return None,
    };
    if let Some(precision) = format.precision {
        digits.insert_str(0, &"0".repeat(precision.saturating_sub(digits.len())));
    }
    Some(format.pad(negative, &digits))
}

pub(super) fn format_real(number: Number, format: Option<&str>) -> Option<String> {
    let value = number.as_f64();
    let Some(format) = format else {
        return Some(format!("{value}"));
    };
    let format = Format::parse(format)?;
    match format.letter {
        'f' | 'F' => {
            let precision = format.precision.unwrap_or(6);
            let digits = format!("{:.precision$}", value.abs());
            Some(format.pad(value.is_sign_negative(), &digits))
        }
        _ => None,
    }
}
