//! A start that fails leaves the kernel as it was: what an earlier daemon enforces goes on, and where there was none nothing
//! is left. `check-config` finds out before.

use std::{fs, process::Command};

use anyhow::Result;
use portcullis_tests::{World, config::Config, daemon::binary, is_root, process::run};

/// Tables that name what is not there, and what is said of it.
const FAULTS: [(&str, &str); 3] = [
    ("[host]\ngeo_databases = [\"/none/places.mmdb\"]\n", "/none/places.mmdb"),
    (
        "[trace]\nendpoint = \"https://127.0.0.1:4318/v1/traces\"\nca_file = \"/none/ca.pem\"\n",
        "/none/ca.pem",
    ),
    (
        "[[ssf.transmitter]]\nname = \"idp\"\nissuer = \"https://idp.test\"\naudience = [\"a\"]\ndelivery = \"poll\"\npoll_url = \"https://127.0.0.1:9/poll\"\njwks_url = \"https://127.0.0.1:9/jwks\"\ntoken_file = \"/none/token\"\n",
        "/none/token",
    ),
];

/// Has a configuration refused by `check-config` and by a start, with the same words.
#[track_caller]
fn assert_refused(w: &World, config: &Config, wanted: &str) {
    w.dir.write("portcullis.toml", &config.toml(&w.dir)).unwrap();
    let file = w.dir.path("portcullis.toml").display().to_string();
    let checked =
        run(&w.net.server, Command::new(binary().unwrap()).args(["check-config", &file]), b"").unwrap();
    assert_eq!(checked.code, 1, "{wanted}: {checked:?}");
    assert!(checked.stdout.contains(wanted), "{wanted}: {checked:?}");
    let started = w.daemon.command(&["run"]).unwrap();
    assert_eq!(started.code, 1, "{wanted}: {started:?}");
    assert!(started.stderr.contains(wanted), "{wanted}: {started:?}");
}

fn pins(w: &World) -> Vec<String> {
    let pins = fs::read_dir(w.dir.path(w.config.pin_dir)).into_iter().flatten().flatten();
    pins.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_was_enforced_goes_on_and_nothing_new_is_left() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for attach in ["auto", "clsact"] {
        let mut w = World::with(|config, _| {
            config.attach = attach;
            Ok(())
        })?;
        let token = w.mint.hs256()?;
        w.daemon.revoke(&token)?;
        w.assert_refused(&token);
        w.daemon.kill9()?;
        let good = w.config.clone();
        for (table, wanted) in FAULTS {
            // Other ports, so that programs of the failed start would be known by what they let pass.
            let faulty = Config { serve: format!("{}{table}", good.serve), ports: vec![9], ..good.clone() };
            assert_refused(&w, &faulty, wanted);
            w.assert_refused(&token);
            // With pins elsewhere, where none were before.
            let elsewhere = Config { pin_dir: "bpf/elsewhere", ..faulty };
            assert_refused(&w, &elsewhere, wanted);
            w.assert_refused(&token);
            assert!(!w.dir.path("bpf/elsewhere").exists(), "{wanted}: pins are left");
        }
        // A store that is refused, with pins elsewhere: filters that are attached without a pin stay.
        let strange = Config { key: "other.key", pin_dir: "bpf/elsewhere", ..good.clone() };
        w.dir.write("other.key", "00112233445566778899aabbccddeeff\n")?;
        w.dir.write("portcullis.toml", &strange.toml(&w.dir))?;
        assert_eq!(w.daemon.command(&["run"])?.code, 1);
        w.assert_refused(&token);
        assert!(!w.dir.path("bpf/elsewhere").exists());
        w.dir.write("portcullis.toml", &good.toml(&w.dir))?;
        w.daemon.restart()?;
        w.assert_refused(&token);
        assert!(!pins(&w).is_empty());
    }
    Ok(())
}

#[test]
fn a_store_that_does_not_fit_or_is_not_there_changes_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let tokens = (0..12).map(|_| w.mint.hs256()).collect::<Result<Vec<_>>>()?;
    for token in &tokens {
        w.daemon.revoke(token)?;
    }
    w.daemon.kill9()?;
    let good = w.config.clone();
    let small = Config { max_entries: 16, policy_entries: 8, pin_dir: "bpf/elsewhere", ..good.clone() };
    w.dir.write("portcullis.toml", &small.toml(&w.dir))?;
    let refused = w.daemon.command(&["run"])?;
    assert!(refused.code == 1 && refused.stderr.contains("raise `kernel.max_entries`"), "{refused:?}");
    assert!(!w.dir.path("bpf/elsewhere").exists());
    w.assert_refused(&tokens[0]);
    // The log is gone, or the whole store is: its disk may not be mounted. It is not taken for a new one.
    w.dir.write("portcullis.toml", &good.toml(&w.dir))?;
    let (store, aside) = (w.dir.path(good.store), w.dir.path("aside"));
    w.daemon.restart()?;
    assert!(w.daemon.stop()?.success());
    fs::rename(&store, &aside)?;
    fs::create_dir(&store)?;
    fs::copy(aside.join("clock"), store.join("clock"))?;
    let refused = w.daemon.command(&["run"])?;
    assert!(refused.code == 1 && refused.stderr.contains("its log is not there"), "{refused:?}");
    w.assert_refused(&tokens[0]);
    fs::remove_dir_all(&store)?;
    let refused = w.daemon.command(&["run"])?;
    for part in ["the kernel refuses 12 tokens", "the revocation store is new", "portcullis detach"] {
        assert!(refused.code == 1 && refused.stderr.contains(part), "{part}: {refused:?}");
    }
    w.assert_refused(&tokens[0]);
    fs::remove_dir_all(&store)?;
    fs::rename(&aside, &store)?;
    w.daemon.restart()?;
    w.assert_refused(&tokens[0]);
    Ok(())
}
