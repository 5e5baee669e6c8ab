//! ISS-P keeps the contract of every scheduler, and shrinks what its paper shrinks.

use bonsai_issp::IssP;
use bonsai_pruning::method::from_keys;
use bonsai_pruning::{Clock, Kind, LayerSpec, Scheduler, register};
use bonsai_testkit::{Contract, RUN};

const KEYS: &str = "sparsity = 0.5\nshrink = 0.1\nstart_epoch = 1\nend_epoch = 3";

#[test]
fn it_keeps_the_contract() {
    register::<IssP>().unwrap();
    Contract::new(&format!("name = 'iss-p'\n{KEYS}")).starts_at(0.0).prunes_to(30, 0.5).random(false).check();
}

#[test]
fn only_the_smaller_share_of_a_layer_shrinks_and_only_between_the_epochs() {
    let mut scheduler = from_keys::<IssP>(KEYS, RUN).unwrap();
    let at = |iteration| Clock { iteration, horizon: RUN, lr: 0.1 };
    let shrinks: Vec<u64> = (0..=RUN.total()).filter(|&t| scheduler.shapes_weights(&at(t))).collect();
    assert_eq!(shrinks, (11..=30).collect::<Vec<_>>());
    let layer = LayerSpec { name: "fc".into(), kind: Kind::Linear, shape: vec![2, 3], macs: 6 };
    let mut weights = [3.0, -1.0, 0.5, -4.0, 2.0, 0.0];
    scheduler.after_weight_step(&at(11), &layer, &mut weights);
    assert_eq!(weights, [3.0, -0.9, 0.45, -4.0, 2.0, 0.0]);
}

#[test]
fn mistakes_are_named() {
    let refused = |keys: &str| from_keys::<IssP>(keys, RUN).err().unwrap();
    assert_eq!(refused(&KEYS.replace("0.1", "0")), "`shrink` is 0, but must be above 0 and at most 1");
    assert_eq!(refused(&KEYS.replace("= 3", "= 1")), "`end_epoch` is 1, but must be after `start_epoch`, which is 1");
}
