use super::*;
use crate::dsl::StreamsBuilder;

fn config(dir: &Path, application_id: &str) -> Config {
    Config::builder(application_id, "localhost:9092").state_dir(dir).build().unwrap()
}

fn of_member(dir: &Path, id: &str) -> Config {
    let builder = Config::builder("app", "localhost:9092").state_dir(dir);
    builder.set("group.instance.id", id).build().unwrap()
}

/// The error of an attempt to take a slot, with its causes.
fn refused(config: &Config) -> String {
    let error = Identity::kept(config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    format!("{error:?}")
}

#[test]
fn instances_take_the_first_free_slot_and_come_back_as_who_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "app");
    let (a, b) = (Identity::kept(&config).unwrap(), Identity::kept(&config).unwrap());
    assert_ne!(a.process_id, b.process_id, "side by side");
    let (first, second) = (a.process_id, b.process_id);
    drop(a);
    let again = Identity::kept(&config).unwrap();
    assert_eq!(again.process_id, first, "its lock was released, its slot is the first");
    drop((again, b));
    let all = [Identity::kept(&config).unwrap(), Identity::kept(&config).unwrap()];
    assert_eq!(all.map(|identity| identity.process_id), [first, second]);
}

#[test]
fn applications_share_a_state_dir_and_nothing_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let a = Identity::kept(&config(dir.path(), "a")).unwrap();
    let b = Identity::kept(&config(dir.path(), "b")).unwrap();
    assert_ne!(a.process_id, b.process_id);
    assert!(dir.path().join("a/0/process.json").is_file() && dir.path().join("b/0/process.json").is_file());
}

#[test]
fn a_static_member_is_who_it_says_and_only_once() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Identity::kept(&of_member(here.path(), "../a b")).unwrap();
    assert!(here.path().join("app/instance-%2e%2e%2fa%20b/process.json").is_file());
    let elsewhere = Identity::kept(&of_member(there.path(), "../a b")).unwrap();
    assert_eq!(a.process_id, elsewhere.process_id, "on whatever host");
    let text = refused(&of_member(here.path(), "../a b"));
    assert!(text.contains("group.instance.id") && text.contains("a running instance holds"), "{text}");
    let other = Identity::kept(&of_member(here.path(), "b")).unwrap();
    assert_ne!(a.process_id, other.process_id);
}

#[test]
fn an_application_without_state_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("never"), "app");
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").to("out");
    let topology = builder.build().unwrap();
    let (a, b) = (Identity::of(&config, &topology).unwrap(), Identity::of(&config, &topology).unwrap());
    assert_ne!(a.process_id, b.process_id);
    assert!(!dir.path().join("never").exists());
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").group_by_key("by-key").count("counts");
    Identity::of(&config, &builder.build().unwrap()).unwrap();
    assert!(dir.path().join("never/app/0/process.json").is_file(), "with state it keeps who it is");
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let text = refused(&config(&file, "app"));
    assert!(text.contains("state.dir=") && text.contains("set state.dir to a folder"), "{text}");

    let config = config(dir.path(), "app");
    drop(Identity::kept(&config).unwrap());
    let process = dir.path().join("app/0/process.json");
    let written = fs::read_to_string(&process).unwrap();
    for (text, says) in [
        ("", "delete this file alone"),
        ("{\"version\":1", "delete this file alone"),
        ("{\"version\":1,\"applicationId\":\"app\"}", "is not the process file of an instance"),
        ("{\"version\":2}", "a newer release wrote it"),
        (&written.replace("\"app\"", "\"App\""), "belongs to the application App, and not to app"),
    ] {
        fs::write(&process, text).unwrap();
        let refused = refused(&config);
        assert!(refused.contains(says) && refused.contains("process.json"), "{text}: {refused}");
    }
    clean_up(&config).unwrap();
    Identity::kept(&config).unwrap();
}

/// A fixture: what the first version wrote is read for ever.
#[test]
fn a_process_file_of_version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let slot = dir.path().join("app/0");
    fs::create_dir_all(&slot).unwrap();
    let text = r#"{"version":1,"applicationId":"app","processId":"3f2c1c0e-6b7a-4a51-9a70-0d6a3f8f7c11"}"#;
    fs::write(slot.join("process.json"), text).unwrap();
    let identity = Identity::kept(&config(dir.path(), "app")).unwrap();
    assert_eq!(identity.process_id.to_string(), "3f2c1c0e-6b7a-4a51-9a70-0d6a3f8f7c11");
}

#[test]
fn a_clean_up_deletes_free_slots_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "app");
    clean_up(&config).unwrap();
    let (held, free) = (Identity::kept(&config).unwrap(), Identity::kept(&config).unwrap());
    let before = (held.process_id, free.process_id);
    drop(free);
    fs::create_dir_all(dir.path().join("app/notes")).unwrap();
    fs::create_dir_all(dir.path().join("other/0")).unwrap();
    clean_up(&config).unwrap();
    assert!(dir.path().join("app/0/process.json").is_file(), "a running instance holds it");
    assert!(!dir.path().join("app/1").exists());
    assert!(dir.path().join("app/notes").is_dir() && dir.path().join("other/0").is_dir(), "not ours");
    let next = Identity::kept(&config).unwrap();
    assert!(next.process_id != before.0 && next.process_id != before.1, "a new instance");
}

/// The test starts itself as a second process, which takes a slot and is killed.
#[test]
fn a_killed_instance_leaves_its_slot_free_and_its_identity_behind() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    const HOLDS: &str = "MAINSTEM_TEST_HOLDS_A_SLOT";
    if let Some(dir) = std::env::var_os(HOLDS) {
        let held = Identity::kept(&config(Path::new(&dir), "app")).unwrap();
        println!("holds {}", held.process_id);
        // Until it is killed, or whoever started it is gone.
        let _ = io::stdin().read(&mut [0]);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "runtime::state_dir::tests::a_killed_instance_leaves_its_slot_free_and_its_identity_behind";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(HOLDS, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(|line| line.ok());
    let said = lines.filter_map(|line| line.split_once("holds ").map(|(_, id)| id.to_owned())).next();
    let first = said.expect("the other process has taken a slot");
    let second = Identity::kept(&config(dir.path(), "app")).unwrap();
    assert_ne!(second.process_id.to_string(), first, "the first slot is held");
    child.kill().unwrap();
    child.wait().unwrap();
    let again = Identity::kept(&config(dir.path(), "app")).unwrap();
    assert_eq!(again.process_id.to_string(), first);
}
