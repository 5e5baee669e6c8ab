//! Writes figures and texts as burn-train's renderers take them.

use std::sync::Arc;

use burn::train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
};
use burn::train::renderer::MetricState;

/// Defines a figure, which is plotted and written.
pub fn figure(name: &str, higher_is_better: bool) -> MetricDefinition {
    define(name, MetricAttributes::Numeric(NumericAttributes { unit: None, higher_is_better }))
}

/// Defines a text, which is written only.
pub fn text(name: &str) -> MetricDefinition {
    define(name, MetricAttributes::None)
}

/// Gives a figure a value, with how it is written; one that is not finite leaves a gap in the plots.
pub fn number(name: &str, value: f64, text: String) -> MetricState {
    let entry = MetricEntry::new(id(name), SerializedEntry::new(text, value.to_string()));
    MetricState::Numeric(entry, value.is_finite().then_some(NumericEntry::Value(value)))
}

/// Gives a text, or a figure without a value, its words.
pub fn words(name: &str, text: String) -> MetricState {
    MetricState::Generic(MetricEntry::new(id(name), SerializedEntry::new(text.clone(), text)))
}

fn define(name: &str, attributes: MetricAttributes) -> MetricDefinition {
    MetricDefinition { metric_id: id(name), name: Arc::new(name.to_owned()), description: None, attributes }
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_are_not_finite_are_written_but_not_plotted() {
        let MetricState::Numeric(entry, value) = number("Loss", f64::NAN, "NaN".to_owned()) else { panic!("numeric") };
        assert_eq!(entry.serialized_entry.formatted, "NaN");
        assert!(value.is_none());
    }
}
