//! AC/DC keeps the contract of every scheduler, and its phases fall where the paper's do.

use bonsai_acdc::AcDc;
use bonsai_pruning::method::from_keys;
use bonsai_pruning::register;
use bonsai_testkit::{Contract, Promise, RUN};

const KEYS: &str = "sparsity = 0.9\nwarmup_epochs = 1\nphase_epochs = 0.5\nend_epoch = 3";

fn contract(keys: &str) -> Contract {
    register::<AcDc>().unwrap();
    Contract::new(&format!("name = 'acdc'\n{keys}")).starts_at(0.0).random(false)
}

#[test]
fn it_keeps_the_contract() {
    // 10 iterations an epoch: compressed from 10, 20 and 30 to the end, dense from 15 and 25.
    let events = |t| match t {
        10 | 20 | 30 => Some(Promise::prunes_to(0.9)),
        15 | 25 => Some(Promise::restores()),
        _ => None,
    };
    contract(KEYS).events(events).check();
}

#[test]
fn it_ends_compressed_wherever_its_end_falls() {
    for end in ["1.5", "2.2", "2.6", "3.4", "4.0"] {
        let table = format!("name = 'acdc'\nsparsity = 0.8\nwarmup_epochs = 0\nphase_epochs = 0.7\nend_epoch = {end}");
        register::<AcDc>().unwrap();
        let (scheduler, _) = bonsai_pruning::build(&table.parse().unwrap(), RUN).unwrap();
        let at = |iteration| scheduler.due(&bonsai_pruning::Clock { iteration, horizon: RUN, lr: 0.1 });
        let last = (1..=RUN.total()).rev().find_map(at).unwrap();
        assert_eq!(last.sparsity, Some(0.8), "with end_epoch = {end}");
        contract(&table.replace("name = 'acdc'\n", "")).check();
    }
}

#[test]
fn mistakes_are_named() {
    let refused = |keys: &str| from_keys::<AcDc>(keys, RUN).err().unwrap();
    assert_eq!(refused(&KEYS.replace("0.9", "1.5")), "`sparsity` is 1.5, but must be at least 0 and below 1");
    assert_eq!(refused(&KEYS.replace("= 0.5", "= 0")), "`phase_epochs` is 0, but must be above 0 and finite");
    assert_eq!(refused(&KEYS.replace("= 3", "= 9")), "`end_epoch` is 9, but must lie in the 4 epochs of the run");
    assert!(refused("sparsity = 0.9\nphase = 3").starts_with("unknown field `phase`"));
}
