//! Checks of configuration values, each a sentence that names the field, its value and its range.

use crate::clock::Horizon;

/// Checks a share that must be at least 0 and below 1.
pub fn share(field: &str, value: f64) -> Result<(), String> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        Err(format!("`{field}` is {value}, but must be at least 0 and below 1"))
    }
}

/// Checks a share that must be above 0 and at most 1.
pub fn part(field: &str, value: f64) -> Result<(), String> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        Err(format!("`{field}` is {value}, but must be above 0 and at most 1"))
    }
}

/// Checks a number that must be above 0 and finite.
pub fn positive(field: &str, value: f64) -> Result<(), String> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(format!("`{field}` is {value}, but must be above 0 and finite"))
    }
}

/// Checks that one share is not above another.
pub fn at_most(field: &str, value: f64, limit_field: &str, limit: f64) -> Result<(), String> {
    if value <= limit {
        Ok(())
    } else {
        Err(format!("`{field}` is {value}, but must be at most `{limit_field}`, which is {limit}"))
    }
}

/// Checks that events between two epochs, `every` iterations apart, lie within a run.
pub fn window(start_epoch: f64, end_epoch: f64, every: u64, horizon: Horizon) -> Result<(), String> {
    let epochs = horizon.epochs as f64;
    if horizon.total() == 0 {
        return Err("a run of 0 iterations has no room for pruning".to_string());
    }
    if every == 0 {
        return Err("`every` is 0, but must be at least 1 iteration".to_string());
    }
    if !(0.0..=epochs).contains(&start_epoch) {
        return Err(format!("`start_epoch` is {start_epoch}, but must lie in the {epochs} epochs of the run"));
    }
    if !(0.0..=epochs).contains(&end_epoch) {
        return Err(format!("`end_epoch` is {end_epoch}, but must lie in the {epochs} epochs of the run"));
    }
    if end_epoch <= start_epoch {
        return Err(format!("`end_epoch` is {end_epoch}, but must be after `start_epoch`, which is {start_epoch}"));
    }
    Ok(())
}

/// Returns the iteration at which an epoch, whole or not, is over.
pub fn iteration(epoch: f64, horizon: Horizon) -> u64 {
    (epoch * horizon.iterations_per_epoch as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_name_field_value_and_range() {
        let run = Horizon { iterations_per_epoch: 10, epochs: 4 };
        assert_eq!(share("sparsity", 1.0).unwrap_err(), "`sparsity` is 1, but must be at least 0 and below 1");
        assert_eq!(
            at_most("replace_min", 0.6, "replace", 0.5).unwrap_err(),
            "`replace_min` is 0.6, but must be at most `replace`, which is 0.5"
        );
        assert_eq!(window(0.0, 5.0, 1, run).unwrap_err(), "`end_epoch` is 5, but must lie in the 4 epochs of the run");
        assert_eq!(
            window(2.0, 2.0, 1, run).unwrap_err(),
            "`end_epoch` is 2, but must be after `start_epoch`, which is 2"
        );
        assert_eq!(window(0.0, 2.0, 0, run).unwrap_err(), "`every` is 0, but must be at least 1 iteration");
    }

    #[test]
    fn what_is_not_a_number_is_in_no_range() {
        let run = Horizon { iterations_per_epoch: 10, epochs: 4 };
        for value in [f64::NAN, f64::INFINITY, -f64::INFINITY, -0.1, 1e300] {
            assert!(share("sparsity", value).is_err());
            assert!(window(value, 2.0, 1, run).is_err() && window(0.0, value, 1, run).is_err());
        }
        assert!(at_most("replace_min", f64::NAN, "replace", 0.5).is_err());
        assert!(window(0.0, 1.0, 1, Horizon { iterations_per_epoch: 0, epochs: 4 }).is_err());
        assert_eq!(iteration(1.25, run), 13);
    }
}
