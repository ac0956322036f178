//! Logs that somebody has changed: the first difference is named.

use super::*;

/// What was done to a log, the file that must be named, and the entry.
type Deed = (&'static str, fn(&Path), &'static str, Option<u64>);

fn with_entries(folder: &Path, file: &str, width: u64, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let path = folder.join(file);
    let bytes = fs::read(&path).unwrap();
    let mut entries: Vec<Vec<u8>> = tiles::entries(&bytes, width).unwrap().into_iter().map(<[u8]>::to_vec).collect();
    change(&mut entries);
    let mut bytes = Vec::new();
    entries.iter().for_each(|entry| tiles::put_entry(&mut bytes, entry));
    fs::write(path, bytes).unwrap();
}

fn swap(folder: &Path, one: &str, two: &str) {
    let (one, two) = (folder.join(one), folder.join(two));
    let first = fs::read(&one).unwrap();
    fs::write(&one, fs::read(&two).unwrap()).unwrap();
    fs::write(two, first).unwrap();
}

#[test]
fn whatever_is_edited_truncated_reordered_swapped_or_rewritten_is_named() {
    let place = Place::new();
    let journal = place.open();
    // With the start, what `record` waits for, and the stop: 1000 facts, so the last bundle has 232.
    record(&journal, 997);
    drop(journal);
    assert_eq!(place.verify().unwrap().checkpoint.size, 1000);
    const LAST: &str = "tile/entries/003.p/232";
    let deeds: [Deed; 19] = [
        ("an entry was edited", |f| edit(f, "tile/entries/001", 30), "tile/entries/001", Some(0)),
        ("the last entry was edited", |f| edit(f, LAST, fs::read(f.join(LAST)).unwrap().len() - 3), LAST, Some(231)),
        ("a hash was edited", |f| edit(f, "tile/0/001", 32 * 5), "tile/0/001", Some(5)),
        ("a partial tile's hash was edited", |f| edit(f, "tile/0/003.p/232", 32 * 7), "tile/0/003.p/232", Some(7)),
        ("a higher tile's hash was edited", |f| edit(f, "tile/1/000.p/3", 40), "tile/1/000.p/3", Some(1)),
        (
            "a bundle was cut off",
            |f| {
                let bytes = fs::read(f.join("tile/entries/002")).unwrap();
                fs::write(f.join("tile/entries/002"), &bytes[..bytes.len() - 10]).unwrap();
            },
            "tile/entries/002",
            Some(255),
        ),
        (
            "a bundle lacks its last entry",
            |f| with_entries(f, "tile/entries/002", 256, |e| drop(e.pop())),
            "tile/entries/002",
            Some(255),
        ),
        ("a bundle has one more", |f| with_entries(f, LAST, 232, |e| e.push(b"more".to_vec())), LAST, None),
        (
            "a tile was cut off",
            |f| {
                let bytes = fs::read(f.join("tile/0/000")).unwrap();
                fs::write(f.join("tile/0/000"), &bytes[..8000]).unwrap();
            },
            "tile/0/000",
            None,
        ),
        (
            "two entries changed places",
            |f| with_entries(f, "tile/entries/000", 256, |e| e.swap(17, 200)),
            "tile/entries/000",
            Some(17),
        ),
        (
            "an entry was taken out and another put in",
            |f| {
                with_entries(f, "tile/entries/000", 256, |e| {
                    e.remove(3);
                    e.push(b"x".to_vec());
                })
            },
            "tile/entries/000",
            Some(3),
        ),
        (
            "two bundles changed places",
            |f| swap(f, "tile/entries/000", "tile/entries/002"),
            "tile/entries/000",
            Some(0),
        ),
        ("two tiles changed places", |f| swap(f, "tile/0/001", "tile/0/002"), "tile/0/001", Some(0)),
        (
            "bundles and tiles changed places",
            |f| {
                swap(f, "tile/0/001", "tile/0/002");
                swap(f, "tile/entries/001", "tile/entries/002");
            },
            "tile/0/001",
            None,
        ),
        ("a bundle is gone", |f| fs::remove_file(f.join("tile/entries/001")).unwrap(), "tile/entries/001", None),
        (
            "the first bundle is gone",
            |f| fs::remove_file(f.join("tile/entries/000")).unwrap(),
            "tile/entries/000",
            None,
        ),
        ("a tile is gone", |f| fs::remove_file(f.join("tile/0/002")).unwrap(), "tile/0/002", None),
        (
            "an entry and its hash were rewritten",
            |f| {
                let mut leaf = [0; 32];
                with_entries(f, "tile/entries/000", 256, |e| {
                    e[9] = b"{}".to_vec();
                    leaf = tree::leaf(&e[9]);
                });
                let mut hashes = fs::read(f.join("tile/0/000")).unwrap();
                hashes[9 * 32..10 * 32].copy_from_slice(&leaf);
                fs::write(f.join("tile/0/000"), hashes).unwrap();
            },
            "tile/0/000",
            None,
        ),
        (
            "the checkpoint was edited",
            |f| {
                let text = fs::read_to_string(f.join("checkpoint")).unwrap();
                fs::write(f.join("checkpoint"), text.replacen("\n1000\n", "\n999\n", 1)).unwrap();
            },
            "checkpoint",
            None,
        ),
    ];
    for (what, deed, file, entry) in deeds {
        let copy = Place { folder: tempfile::tempdir().unwrap(), keys: place.keys.clone() };
        copy_folder(&place.audit(), &copy.audit());
        assert!(copy.verify().is_ok());
        deed(&copy.audit());
        let named = copy.verify().expect_err(what);
        assert_eq!((named.file.as_str(), named.entry), (file, entry), "{what}: {named}");
    }
}

#[test]
fn a_log_that_was_rewritten_from_its_beginning_does_not_go_on_from_a_checkpoint_that_somebody_kept() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 300);
    drop(journal);
    let kept = place.verify().unwrap().checkpoint;
    let journal = place.open();
    record(&journal, 900);
    drop(journal);
    let (key, size) = (place.key(), place.verify().unwrap().checkpoint.size);
    assert_eq!(verify(&place.audit(), &key, std::slice::from_ref(&kept)).unwrap().checkpoint.size, size);
    let (proof, now) = consistency(&place.audit(), &key, &kept).unwrap();
    assert!(tree::is_consistent(kept.size, &kept.root, now.size, &now.root, &proof));

    let again = Place { folder: tempfile::tempdir().unwrap(), keys: place.keys.clone() };
    let journal = again.open();
    record(&journal, 600);
    drop(journal);
    assert!(again.verify().is_ok(), "it is signed, and whole");
    let named = verify(&again.audit(), &key, &[kept]).unwrap_err();
    assert!(named.file == "checkpoint of 303 facts" && named.found.contains("rewritten"), "{named}");
    let named = verify(&again.audit(), &key, &[now]).unwrap_err();
    assert!(named.found.contains("cut off"), "{named}");
}
