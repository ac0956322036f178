//! A process that is killed while it records.

use super::*;

const CHILD: &str = "ASTRID_JOURNAL_CHILD";

const CALLERS: usize = 8;

/// Each caller durably records 0, 1, 2, … and says on stdout what was acknowledged; others don't wait.
fn child(folder: &Path) {
    let keys = Arc::new(Keys::open(&folder.join("host.key")).unwrap());
    let journal = Arc::new(Journal::open(&folder.join("audit"), &Config::default(), &keys).unwrap());
    assert_eq!(journal.fault(), None);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let journal = journal.clone();
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    let detail = Some(format!("{n}"));
                    let principal = Some(format!("{}-{caller}", std::process::id()));
                    let fact = Fact { principal, detail, ..journal.fact("test.durable") };
                    let index = wait(journal.append_durable(fact)).unwrap();
                    println!("acknowledged {index} {}-{caller} {n}", std::process::id());
                    journal.append(journal.fact("test.other"));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
}

#[test]
fn a_process_killed_fifty_times_while_recording_loses_nothing_that_was_acknowledged_or_signed() {
    if let Some(folder) = env::var_os(CHILD) {
        return child(Path::new(&folder));
    }
    let place = Place::new();
    let this = concat!(
        module_path!(),
        "::a_process_killed_fifty_times_while_recording_loses_nothing_that_was_acknowledged_or_signed"
    );
    let (_crate, this) = this.split_once("::").unwrap();
    let (mut acknowledged, mut signed) = (Vec::new(), None);
    for round in 1..=50 {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture"])
            .env(CHILD, place.folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut note = |line: String| {
            let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "acknowledged").collect();
            let [_, index, who, n] = words[..] else { return false };
            acknowledged.push((index.parse::<u64>().unwrap(), who.to_owned(), n.to_owned()));
            true
        };
        // Not always at the same point between two checkpoints, nor of a bundle.
        let mut left = 100 + 37 * (round % 13);
        while left > 0 {
            left -= usize::from(note(lines.next().expect("the child records until it is killed")));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What the pipe still holds was acknowledged as well; the last line may be cut off.
        let mut rest: Vec<_> = lines.collect();
        rest.pop();
        rest.into_iter().for_each(|line| {
            note(line);
        });
        // As it lies there, before anything is repaired: what is signed is whole.
        if checkpoint_path(&place.audit()).exists() {
            let (_, checkpoint) = verify::checkpoint(&place.audit(), &place.key()).unwrap();
            assert!(signed.as_ref().is_none_or(|before: &note::Checkpoint| before.size <= checkpoint.size));
            signed = Some(checkpoint);
        }
        if round % 10 == 0 {
            let journal = place.open();
            assert_eq!(journal.fault(), None);
            let facts = all(&journal);
            for (index, who, n) in &acknowledged {
                let fact = &facts[*index as usize];
                assert_eq!((fact.principal.as_deref(), fact.detail.as_deref()), (Some(&**who), Some(&**n)), "{index}");
            }
            drop(journal);
            let older: Vec<_> = signed.iter().cloned().collect();
            verify(&place.audit(), &place.key(), &older).unwrap();
        }
    }
    let facts = all(&place.open());
    assert_eq!(facts.iter().filter(|fact| fact.action == "host.unclean").count(), 50);
}
