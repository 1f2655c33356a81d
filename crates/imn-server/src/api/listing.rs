//! Lists by `filter`, `order_by`, `limit` and `page_token`, whatever they are of.

mod module;

use imn_domain::{FieldValue, Fields, Filter, FilterError, LiteralError, Sort};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::{
    page::{self, List},
    problem::{FieldError, Problem},
    text,
};

/// What a list is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// AIP-160-like, over the fields of the items, such as `name=low OR probe_interval<10s`.
    pub(crate) filter: Option<String>,
    /// `field [desc], …`; by name otherwise.
    pub(crate) order_by: Option<String>,
    /// Items of a page, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    pub(crate) limit: Option<String>,
    /// `next_page_token` of the page before.
    pub(crate) page_token: Option<String>,
}

/// A question, read.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) filter: Filter,
    pub(crate) sort: Sort,
    pub(crate) limit: usize,
    /// What the tokens of its pages are bound to.
    pub(crate) question: String,
    token: Option<String>,
}

/// The sort key of a page's last item, as a token carries it, and its id: the next page begins after it though it be
/// changed or gone meanwhile.
type Place = (Vec<Value>, String);

impl Listing {
    /// Reads what is asked of a list of `T`; `scope` names the list and whatever else narrows it.
    pub(crate) fn read<T: Fields>(scope: &str, query: ListQuery) -> Result<Self, Problem> {
        let (filter, order_by) = (query.filter.unwrap_or_default(), query.order_by.unwrap_or_default());
        Ok(Self {
            limit: page::limit(query.limit.as_deref())?,
            question: format!("{scope}\0{filter}\0{order_by}"),
            filter: Filter::parse::<T>(&filter).map_err(|error| located("filter", error))?,
            sort: Sort::parse::<T>(&order_by).map_err(|error| located("order_by", error))?,
            token: query.page_token,
        })
    }

    /// Where the page begins that is in order of ids.
    pub(crate) fn after_id(&self) -> Result<Option<String>, Problem> {
        page::after(&self.question, self.token.as_deref())
    }

    /// Where the page begins that is sorted.
    pub(crate) fn after_place(&self) -> Result<After<'_>, Problem> {
        let place: Option<Place> = page::after(&self.question, self.token.as_deref())?;
        let place = place.map(|(key, id)| (key.iter().map(field_value).collect(), id));
        Ok(After { sort: &self.sort, place })
    }

    /// The page of all these items, given in order of their ids.
    pub(crate) fn page<T: Fields>(
        &self,
        items: impl IntoIterator<Item = T>,
        id: impl Fn(&T) -> &str,
    ) -> Result<List<T>, Problem> {
        let after = self.after_place()?;
        let mut found: Vec<(Vec<Option<FieldValue>>, T)> = Vec::new();
        for item in items.into_iter().filter(|item| self.filter.matches(item)) {
            let key = self.sort.key(&item);
            if after.includes(&key, id(&item)) {
                found.push((key, item));
            }
        }
        Ok(self.cut(found, id))
    }

    /// The page that begins these, whatever their order.
    pub(crate) fn cut<T>(
        &self,
        mut found: Vec<(Vec<Option<FieldValue>>, T)>,
        id: impl Fn(&T) -> &str,
    ) -> List<T> {
        found.sort_by(|(a, x), (b, y)| self.sort.compare(a, b).then_with(|| id(x).cmp(id(y))));
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next_page_token = found.last().filter(|_| more).and_then(|(key, item)| {
            let key: Vec<Value> = key.iter().map(|v| v.as_ref().map_or(Value::Null, json_value)).collect();
            page::token::<Place>(&self.question, (key, id(item).to_owned()))
        });
        List { items: found.into_iter().map(|(_, item)| item).collect(), next_page_token }
    }
}

/// Tells what comes behind the last item of the page before.
pub(crate) struct After<'a> {
    sort: &'a Sort,
    place: Option<(Vec<Option<FieldValue>>, String)>,
}

impl After<'_> {
    pub(crate) fn includes(&self, key: &[Option<FieldValue>], id: &str) -> bool {
        self.place.as_ref().is_none_or(|(last, last_id)| {
            // A key of another length is no token of ours.
            last.len() == key.len() && self.sort.compare(key, last).then_with(|| id.cmp(last_id)).is_gt()
        })
    }
}

/// The problem that a filter or order has.
pub(crate) fn located(field: &str, error: FilterError) -> Problem {
    let FilterError { position, message } = error;
    Problem::fields(vec![FieldError {
        position: Some(position),
        ..FieldError::new(field, format!("at position {position}: {message}"))
    }])
}

/// What a text stands for where a field is compared with it, by what the field is.
pub(crate) enum Literal {
    Text,
    OneOf(&'static [&'static str]),
    Number,
    Duration,
    Time,
}

impl Literal {
    pub(crate) fn read(self, text: &str) -> Result<FieldValue, LiteralError> {
        let number = |read: Option<f64>, wanted: &str| {
            read.map(FieldValue::Number)
                .ok_or_else(|| LiteralError::Value(format!("{:?} is no {wanted}", text::clip(text))))
        };
        match self {
            Self::OneOf(names) if !names.contains(&text) => {
                Err(LiteralError::Value(format!("{:?} is none of {}", text::clip(text), names.join(", "))))
            }
            Self::Text | Self::OneOf(_) => Ok(FieldValue::Text(text.to_owned())),
            Self::Number => number(text.parse().ok().filter(|n: &f64| n.is_finite()), "number"),
            Self::Duration => {
                number(text::parse_duration(text).ok().map(|ms| ms as f64), "duration, such as 30s")
            }
            Self::Time => {
                let wanted = "RFC 3339 time, such as 2026-11-20T08:00:00Z";
                number(text::parse_time(text).ok().map(|us| us as f64), wanted)
            }
        }
    }
}

/// A time as the API writes it, as a filter compares it.
pub(crate) fn time_value(time: &str) -> Option<FieldValue> {
    text::parse_time(time).ok().map(|us| FieldValue::Number(us as f64))
}

/// A duration as the API writes it, as a filter compares it.
pub(crate) fn duration_value(duration: &str) -> Option<FieldValue> {
    text::parse_duration(duration).ok().map(|ms| FieldValue::Number(ms as f64))
}

pub(crate) fn names(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

fn field_value(value: &Value) -> Option<FieldValue> {
    match value {
        Value::String(text) => Some(FieldValue::Text(text.clone())),
        Value::Number(number) => number.as_f64().map(FieldValue::Number),
        _ => None,
    }
}

fn json_value(value: &FieldValue) -> Value {
    match value {
        FieldValue::Text(text) => Value::String(text.clone()),
        FieldValue::Number(number) => Value::from(*number),
    }
}
