//! Control groups (version 2) of a test's own.

use std::{fs, path::PathBuf, process};

use anyhow::{Context as _, Result};

use crate::PREFIX;

/// A control group; removed on drop, when the processes in it have ended.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Makes one where this machine has version 2 mounted; `None` where it has not.
    pub fn make(name: &str) -> Result<Option<Self>> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        });
        let Some(root) = root else { return Ok(None) };
        let path = root.join(format!("{PREFIX}{}-{name}", process::id()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Some(Self(path)))
    }

    /// Where it is.
    pub fn path(&self) -> &PathBuf {
        &self.0
    }

    /// A command that runs `program` in it.
    pub fn command(&self, program: &str) -> process::Command {
        let mut command = process::Command::new("sh");
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display());
        command.args(["-c", &script, program]);
        command
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A process that was ended just now may still be in it for a moment.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::yield_now();
        }
        eprintln!("{} could not be removed", self.0.display());
    }
}
