//! Every target on its seeds, and on what chance makes of them.
//!
//! `ASTRID_FUZZ_SEEDS` (1000) and `ASTRID_FUZZ_FROM` (0) say which chances; `cargo astrid test fuzz --seeds N --from S`
//! sets them. What fails says how to repeat it, and leaves its input in a file.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs, thread};

use astrid_fuzz::{MAX_INPUT_BYTES, TARGETS, Target, mutate};

/// What is running, for when it panics.
struct Replay<'a> {
    target: &'a str,
    /// None: a file of the corpus, which is there already.
    number: Option<u64>,
    name: &'a str,
    input: &'a [u8],
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let Self { target, number, name, input } = *self;
        let Some(number) = number else {
            eprintln!("target {target} fails on its seed {name} ({} bytes)", input.len());
            return;
        };
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{number}"));
        let kept = match fs::write(&file, input) {
            Ok(()) => format!("is kept in {}", file.display()),
            Err(error) => format!("can't be kept: {error}"),
        };
        eprintln!("target {target} fails on an input of {} bytes, which {kept}", input.len());
        eprintln!("repeat it with: cargo astrid test fuzz --seeds 1 --from {number}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is no number")),
        Err(_) => default,
    }
}

/// Runs a target on its seeds, then on what chance makes of them.
#[track_caller]
fn fuzz(name: &str) {
    let (from, count) = (number("ASTRID_FUZZ_FROM", 0), number("ASTRID_FUZZ_SEEDS", 1000));
    assert!(count > 0, "ASTRID_FUZZ_SEEDS is 0: nothing would be tested");
    let target = Target::named(name);
    let seeds = target.corpus();
    let mut taken = 0;
    for (name, input) in &seeds {
        assert!(input.len() <= MAX_INPUT_BYTES, "the seed {name} is too large");
        let replay = Replay { target: target.name, number: None, name, input };
        taken += u64::from((target.run)(input));
        drop(replay);
    }
    assert!(taken > 0, "no seed of {name} is taken, so that what chance makes of them would not get far");
    for number in from..from.saturating_add(count) {
        let input = mutate::input(&target, &seeds, number);
        let replay = Replay { target: target.name, number: Some(number), name: "", input: &input };
        (target.run)(&input);
        drop(replay);
    }
}

#[test]
fn no_manifest_panics_and_what_is_taken_reads_back_from_its_packed_form() {
    fuzz("manifest");
}

#[test]
fn no_archive_panics_and_what_is_taken_keeps_its_caps_and_reads_back() {
    fuzz("archive");
}

#[test]
fn no_contents_of_an_archive_panic_and_what_never_ends_is_given_up_at_the_ratio() {
    fuzz("contents");
}

#[test]
fn an_archive_is_taken_exactly_if_its_parts_are_fine() {
    fuzz("sealed");
}

#[test]
fn no_types_panic_and_what_is_taken_is_written_in_one_way() {
    fuzz("schema");
}

#[test]
fn no_index_panics_and_what_is_taken_reads_back_and_stays_in_its_folder() {
    fuzz("index");
}

#[test]
fn no_distribution_panics_and_what_is_taken_reads_the_same_in_another_layout() {
    fuzz("distro");
}

#[test]
fn no_name_panics_and_matching_and_covering_follow_the_written_rule() {
    fuzz("grammar");
}

#[test]
fn a_number_names_one_input_and_inputs_are_as_many_as_numbers() {
    for target in TARGETS {
        let seeds = target.corpus();
        let inputs: Vec<Vec<u8>> = (0..200).map(|number| mutate::input(&target, &seeds, number)).collect();
        assert_eq!(inputs[7], mutate::input(&target, &seeds, 7), "{}", target.name);
        let different: BTreeSet<&Vec<u8>> = inputs.iter().collect();
        assert!(different.len() > 150, "{}: {} of 200 inputs are different", target.name, different.len());
        let taken = inputs.iter().filter(|input| (target.run)(input)).count();
        assert!(taken < 200, "{} takes everything", target.name);
    }
}

#[test]
fn every_target_is_run_here_and_by_cargo_fuzz() {
    let coverage = Path::new(env!("CARGO_MANIFEST_DIR")).join("coverage/Cargo.toml");
    let coverage = fs::read_to_string(coverage).unwrap();
    for target in TARGETS {
        assert!(include_str!("fuzz.rs").contains(&format!("fuzz(\"{}\");", target.name)), "{}", target.name);
        assert!(coverage.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
    }
}
