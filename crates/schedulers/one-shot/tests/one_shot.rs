//! `one-shot` keeps the contract of every scheduler, and does what its configuration says.

use bonsai_pruning::method::from_keys;
use bonsai_pruning::register;
use bonsai_testkit::{Contract, RUN};
use one_shot::OneShot;

#[test]
fn it_keeps_the_contract() {
    register::<OneShot>().unwrap();
    // An epoch of the testkit's run has 10 iterations.
    let table = "name = 'one-shot'\nsparsity = 0.9\nepoch = 2";
    Contract::new(table).starts_at(0.0).prunes_to(20, 0.9).random(false).check();
}

#[test]
fn mistakes_are_named() {
    let refused = |keys: &str| from_keys::<OneShot>(keys, RUN).err().unwrap();
    assert_eq!(refused("sparsity = 1.5\nepoch = 2"), "`sparsity` is 1.5, but must be at least 0 and below 1");
    assert_eq!(refused("sparsity = 0.5\nepoch = 7"), "`end_epoch` is 7, but must lie in the 4 epochs of the run");
}
