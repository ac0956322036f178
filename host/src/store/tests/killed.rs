//! A process that is killed while it writes.

use super::*;

const CHILD: &str = "ASTRID_STORE_CHILD";

const CALLERS: u8 = 8;

/// Each caller writes 0, 1, 2, … under keys of its own and says on stdout what was acknowledged.
fn child(path: &Path) {
    let store = Arc::new(open(path));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for n in acknowledged_by(&store, caller).. {
                    let key = [[caller].as_slice(), &n.to_be_bytes()].concat();
                    store.commit_blocking(swap(&key, None, &[caller; 100])).unwrap();
                    println!("acknowledged {caller} {n}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
}

/// How many numbers of a caller are there, without a gap.
fn acknowledged_by(store: &Store, caller: u8) -> u64 {
    let page = store.scan(&[caller], None, usize::MAX, usize::MAX).unwrap();
    for (n, (key, entry)) in page.entries.iter().enumerate() {
        assert_eq!(key[1..], (n as u64).to_be_bytes(), "a gap in what caller {caller} wrote");
        assert_eq!(entry.value, [caller; 100]);
    }
    page.entries.len() as u64
}

#[test]
fn a_process_killed_while_writing_loses_nothing_that_was_acknowledged() {
    if let Some(path) = env::var_os(CHILD) {
        return child(Path::new(&path));
    }
    let (_folder, path) = folder();
    let this = concat!(module_path!(), "::a_process_killed_while_writing_loses_nothing_that_was_acknowledged");
    let (_crate, this) = this.split_once("::").unwrap();
    let mut acknowledged = [0; CALLERS as usize];
    for round in 1..=4 {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut note = |line: String| -> bool {
            let mut words = line.split_whitespace().skip_while(|word| *word != "acknowledged").skip(1);
            let (Some(caller), Some(n)) = (words.next(), words.next()) else { return false };
            let (caller, n) = (caller.parse::<usize>().unwrap(), n.parse::<u64>().unwrap());
            acknowledged[caller] = acknowledged[caller].max(n + 1);
            true
        };
        let mut seen = 0;
        while seen < 500 * round {
            seen += u64::from(note(lines.next().expect("the child writes until it is killed")));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What the pipe still holds was acknowledged as well; the last line may be cut off.
        let mut rest: Vec<_> = lines.collect();
        rest.pop();
        rest.into_iter().for_each(|line| {
            note(line);
        });

        let store = open(&path);
        for (caller, acknowledged) in (0..CALLERS).zip(acknowledged) {
            let there = acknowledged_by(&store, caller);
            assert!(there >= acknowledged, "caller {caller}: {there} of {acknowledged} are there");
        }
    }
}
