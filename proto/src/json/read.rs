//! From text to a message, as leniently as Mesos.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    Value,
};
use serde_json::Value as Json;

use super::BodyError;

/// Reads one message; `place` is where it stands, empty for the outermost.
pub(super) fn message(
    descriptor: MessageDescriptor,
    json: &Json,
    place: &str,
) -> Result<DynamicMessage, BodyError> {
    let Json::Object(object) = json else {
        return Err(unexpected(place, "an object", json));
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in object {
        // Unknown fields are of a newer client; null means absent.
        let Some(field) = descriptor.get_field_by_name(name) else {
            continue;
        };
        if value.is_null() {
            continue;
        }
        let place = join(place, name);
        if field.is_map() {
            message.set_field(&field, map(&field, value, &place)?);
        } else if field.is_list() {
            let mut list = Vec::new();
            // A single value is taken for a list of one.
            for item in value
                .as_array()
                .map_or_else(|| std::slice::from_ref(value), Vec::as_slice)
            {
                list.extend(single(&field, item, &place)?);
            }
            message.set_field(&field, Value::List(list));
        } else if let Some(value) = single(&field, value, &place)? {
            message.set_field(&field, value);
        }
    }
    Ok(message)
}

/// Every field that must be set is, here and below.
pub(super) fn check_required(message: &DynamicMessage, place: &str) -> Result<(), BodyError> {
    for field in message.descriptor().fields() {
        if field.cardinality() == Cardinality::Required && !message.has_field(&field) {
            return Err(BodyError::Missing(join(place, field.name())));
        }
    }
    for (field, value) in message.fields() {
        let place = join(place, field.name());
        match value {
            Value::Message(inner) => check_required(inner, &place)?,
            Value::List(list) => {
                for item in list.iter().filter_map(Value::as_message) {
                    check_required(item, &place)?;
                }
            }
            Value::Map(map) => {
                for item in map.values().filter_map(Value::as_message) {
                    check_required(item, &place)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn map(field: &FieldDescriptor, json: &Json, place: &str) -> Result<Value, BodyError> {
    let Json::Object(object) = json else {
        return Err(unexpected(place, "an object", json));
    };
    let entry = field.kind();
    let item = entry
        .as_message()
        .map(MessageDescriptor::map_entry_value_field);
    let mut entries = Vec::new();
    for (key, value) in object {
        if let Some(item) = &item
            && let Some(value) = single(item, value, &join(place, key))?
        {
            // All maps of Mesos' messages are keyed by text.
            entries.push((MapKey::String(key.clone()), value));
        }
    }
    Ok(Value::Map(entries.into_iter().collect()))
}

/// One value; `None` for an enum's unknown name where nothing has to stand.
fn single(field: &FieldDescriptor, json: &Json, place: &str) -> Result<Option<Value>, BodyError> {
    let value = match field.kind() {
        Kind::Bool => match json {
            Json::Bool(bool) => Some(Value::Bool(*bool)),
            Json::String(text) => text.parse().ok().map(Value::Bool),
            _ => None,
        }
        .ok_or_else(|| unexpected(place, "true or false", json))?,
        Kind::Double => Value::F64(double(json, place)?),
        #[expect(clippy::cast_possible_truncation, reason = "the field is that narrow")]
        Kind::Float => Value::F32(double(json, place)? as f32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(json, place)?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(json, place)?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(json, place)?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(json, place)?),
        Kind::String => match json {
            Json::String(text) => Value::String(text.clone()),
            _ => return Err(unexpected(place, "a string", json)),
        },
        Kind::Bytes => {
            let text = json.as_str();
            let bytes = text.and_then(|text| STANDARD.decode(text).ok());
            let bytes = bytes.ok_or_else(|| unexpected(place, "a string in base64", json))?;
            Value::Bytes(bytes.into())
        }
        Kind::Enum(kind) => {
            let Json::String(name) = json else {
                return Err(unexpected(place, "a name", json));
            };
            match kind.get_value_by_name(name) {
                Some(value) => Value::EnumNumber(value.number()),
                None if field.cardinality() == Cardinality::Required => {
                    return Err(unexpected(place, "a name that is known", json));
                }
                None => return Ok(None),
            }
        }
        Kind::Message(descriptor) => Value::Message(message(descriptor, json, place)?),
    };
    Ok(Some(value))
}

fn double(json: &Json, place: &str) -> Result<f64, BodyError> {
    let number = match json {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => match text.as_str() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            text => text.parse().ok(),
        },
        _ => None,
    };
    number.ok_or_else(|| unexpected(place, "a number", json))
}

fn integer<T: TryFrom<i128>>(json: &Json, place: &str) -> Result<T, BodyError> {
    let whole = match json {
        Json::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from))
            .or_else(|| number.as_f64().and_then(whole)),
        Json::String(text) => text.parse().ok(),
        _ => None,
    };
    whole
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| unexpected(place, "a whole number in its range", json))
}

/// `5.0` is written by clients whose language has no integers.
fn whole(number: f64) -> Option<i128> {
    #[expect(clippy::cast_possible_truncation, reason = "bounded")]
    let whole = number as i128;
    (number.fract() == 0.0 && number.abs() < 1e15).then_some(whole)
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() {
        name.to_owned()
    } else {
        format!("{place}.{name}")
    }
}

fn unexpected(place: &str, expected: &'static str, found: &Json) -> BodyError {
    let text = found.to_string();
    let mut shown: String = text.chars().take(80).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    let field = if place.is_empty() { "(body)" } else { place };
    BodyError::Field {
        field: field.to_owned(),
        expected,
        found: shown,
    }
}
