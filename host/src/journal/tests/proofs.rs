//! Facts that are proven with the public key alone.

use super::*;

#[test]
fn every_fact_is_proven_by_a_file_that_needs_nothing_but_the_public_key() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 600);
    drop(journal);
    for index in [0, 1, 255, 256, 511, 512, 602] {
        let (proof, entry) = Inclusion::of(&place.audit(), &place.key(), index).unwrap();
        let read = Inclusion::parse(&proof.to_string()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.check(&entry, &place.key()).unwrap().size, 603);
        assert!(read.check(b"another", &place.key()).is_err());
        assert!(Inclusion { index: (index + 1) % 603, ..read }.check(&entry, &place.key()).is_err());
    }
    assert!(Inclusion::of(&place.audit(), &place.key(), 603).unwrap_err().to_string().contains("603 facts"));
}

#[test]
fn a_tile_can_be_had_in_every_width_that_a_checkpoint_could_have_needed() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 700);
    let facts = all(&journal);
    drop(journal);
    let journal = place.open();
    let leaves: Vec<_> = facts.iter().map(|fact| tree::leaf(&fact.clone().seal())).collect();
    for width in [1, 100, 255, 256] {
        let tile = journal.tile(tiles::Kind::Hashes(0), 1, width).unwrap();
        assert_eq!(tile, leaves[256..256 + width as usize].as_flattened());
        let bundle = journal.tile(tiles::Kind::Entries, 1, width).unwrap();
        assert_eq!(tiles::entries(&bundle, width).unwrap().len() as u64, width);
    }
    for (kind, index, width) in [
        (tiles::Kind::Entries, 0, 0),
        (tiles::Kind::Entries, 0, 257),
        (tiles::Kind::Entries, 2, 256),
        (tiles::Kind::Entries, 3, 1),
        (tiles::Kind::Hashes(1), 0, 3),
        (tiles::Kind::Hashes(63), 0, 1),
        (tiles::Kind::Hashes(0), u64::MAX, 1),
    ] {
        assert_eq!(journal.tile(kind, index, width), Err(ReadError::NotFound), "{kind:?} {index} {width}");
    }
}

#[test]
fn a_fact_is_proven_in_the_tree_of_every_checkpoint_since_while_the_log_grows() {
    let place = Place::new();
    let journal = place.open();
    let mut signed = Vec::new();
    for _ in 0..4 {
        record(&journal, 700);
        while journal.signed() < journal.size() {
            std::thread::yield_now();
        }
        signed.push(Checkpoint::open(journal.checkpoint().as_bytes(), &place.key()).unwrap());
    }
    let facts = all(&journal);
    for checkpoint in &signed {
        for index in [0, 255, 256, 700, checkpoint.size - 1] {
            let hashes = journal.prove(index, checkpoint.size).unwrap();
            let leaf = tree::leaf(&facts[index as usize].clone().seal());
            assert!(tree::is_included(leaf, index, checkpoint.size, &hashes, &checkpoint.root), "{index}");
        }
        assert_eq!(journal.prove(checkpoint.size, checkpoint.size), Err(ReadError::NotFound));
    }
    assert_eq!(journal.prove(0, journal.size() + 1), Err(ReadError::NotFound));
}

#[test]
fn some_facts_with_their_proofs_are_checked_without_the_log_and_the_first_that_is_wrong_is_named() {
    let place = Place::new();
    let journal = place.open();
    record(&journal, 700);
    drop(journal);
    let folder = tempfile::tempdir().unwrap();
    let proven = |index: u64| {
        let (proof, entry) = Inclusion::of(&place.audit(), &place.key(), index).unwrap();
        let hashes = proof.hashes.iter().map(|hash| Base64::encode_string(hash)).collect();
        verify::Proven { index, fact: String::from_utf8(entry).unwrap(), proof: Some(hashes) }
    };
    fs::copy(checkpoint_path(&place.audit()), folder.path().join("checkpoint")).unwrap();
    let write = |lines: &[verify::Proven]| {
        let lines: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        fs::write(folder.path().join(verify::FACTS), lines.concat()).unwrap();
        verify::verify_facts(folder.path(), &place.key())
    };
    let mut whole: Vec<_> = [0, 5, 300, 702].map(proven).into();
    let cut = verify::Proven { proof: None, ..proven(701) };
    whole.insert(3, cut);
    assert!(!verify::holds_proofs(&place.audit()));
    let found = write(&whole).unwrap();
    assert!(verify::holds_proofs(folder.path()));
    assert_eq!((found.proven, found.redacted, found.checkpoint.size), (4, 1, 703));
    let edits: [fn(&mut Vec<verify::Proven>); 7] = [
        |lines| lines[2].fact = lines[2].fact.replace("number", "another"),
        |lines| lines[2].index += 1,
        |lines| lines[2].proof.as_mut().unwrap().swap(0, 1),
        |lines| lines[2] = lines[1].clone(),
        |lines| lines[2].proof = Some(vec!["no".into()]),
        |lines| lines[2] = verify::Proven { index: 703, proof: None, ..lines[3].clone() },
        |lines| lines[2] = verify::Proven { index: u64::MAX, proof: None, ..lines[3].clone() },
    ];
    for edit in edits {
        let mut lines = whole.clone();
        edit(&mut lines);
        let named = write(&lines).unwrap_err();
        assert_eq!((named.file.as_str(), named.entry), (verify::FACTS, Some(2)), "{named}");
    }
    let other = Place::new();
    assert_eq!(verify::verify_facts(folder.path(), &other.key()).unwrap_err().file, "checkpoint");
}

#[test]
fn the_hash_of_a_payload_is_this_hosts_own() {
    let (one, two) = (Place::new(), Place::new());
    let (journal, other) = (one.open(), two.open());
    assert_eq!(journal.digest(b"payload"), journal.digest(b"payload"));
    assert_ne!(journal.digest(b"payload"), other.digest(b"payload"));
    assert_ne!(journal.digest(b"payload"), blake3::hash(b"payload").to_hex().to_string());
}
