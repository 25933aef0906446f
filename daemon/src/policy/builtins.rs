//! Builtins that OPA has and regorus has not, and limits on those that could take all memory.
//!
//! Guarantees: each gives the same value on the interpreter and on the RVM; one that fails is undefined, as in
//! OPA, and fails the decision where builtins are strict; one that runs into a limit always fails the decision,
//! so that `not f(x)` can not turn true by it, and so does a call of `http.send` that fails. None reads a file, a socket or the
//! environment: what `http.send` asks is answered between evaluations.
//!
//! The interpreter takes them as extensions. The RVM has no such thing but "host-await" calls, which would
//! suspend the machine: the compiler is told that they are such, and [`link`] then puts plain builtin calls in
//! their place. Both find them before regorus's own builtins of the same name.

mod amounts;
mod args;
mod ascii;
mod collections;
mod der;
mod digest;
mod documents;
mod globs;
mod graphs;
mod jwt;
mod keys;
mod letters;
mod limits;
mod meets;
mod native;
mod net;
mod paths;
mod patterns;
mod quote;
mod real;
mod send;
mod sign;
mod sprintf;
mod strict;
mod text;
mod times;
mod verbs;
mod x509;

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use anyhow::anyhow;
use regorus::{
    Engine, LimitError, Value,
    rvm::{
        Instruction,
        instructions::BuiltinCallParams,
        program::{BuiltinInfo, Program},
    },
    unstable::{Expr, Ref, Span},
};

pub(super) use args::{Fault, text};
pub(super) use documents::{value, yaml};
pub(super) use send::asking;

/// A builtin's result.
type Answer = Result<Value, Fault>;
/// A builtin as regorus calls it.
type Native = fn(&Span, &[Ref<Expr>], &[Value], bool) -> anyhow::Result<Value>;

/// One builtin.
pub(super) struct Builtin {
    /// Its name in Rego.
    pub name: &'static str,
    /// Number of inputs.
    pub arity: u8,
    call: fn(&[Value]) -> Answer,
    native: Native,
}

macro_rules! builtins {
    ($($name:literal / $arity:literal = $call:path,)+) => {
        &[$(Builtin {
            name: $name,
            arity: $arity,
            call: $call,
            // The machine packs the inputs into one array.
            native: |_, _, args, _| match args {
                [Value::Array(inputs)] => answer($name, $call(&inputs.iter().cloned().collect::<Vec<_>>())),
                _ => Err(anyhow!("{}: its inputs were not packed", $name)),
            },
        }),+]
    };
}

/// All of them.
pub(super) static ALL: &[Builtin] = builtins! {
    "io.jwt.decode" / 1 = jwt::decode,
    "io.jwt.decode_verify" / 2 = jwt::decode_verify,
    "io.jwt.verify_rs256" / 2 = jwt::verify_rs256,
    "io.jwt.verify_rs384" / 2 = jwt::verify_rs384,
    "io.jwt.verify_rs512" / 2 = jwt::verify_rs512,
    "io.jwt.verify_ps256" / 2 = jwt::verify_ps256,
    "io.jwt.verify_ps384" / 2 = jwt::verify_ps384,
    "io.jwt.verify_ps512" / 2 = jwt::verify_ps512,
    "io.jwt.verify_es256" / 2 = jwt::verify_es256,
    "io.jwt.verify_es384" / 2 = jwt::verify_es384,
    "io.jwt.verify_es512" / 2 = jwt::verify_es512,
    "io.jwt.verify_eddsa" / 2 = jwt::verify_eddsa,
    "io.jwt.verify_hs256" / 2 = jwt::verify_hs256,
    "io.jwt.verify_hs384" / 2 = jwt::verify_hs384,
    "io.jwt.verify_hs512" / 2 = jwt::verify_hs512,
    "io.jwt.encode_sign" / 3 = sign::encode_sign,
    "io.jwt.encode_sign_raw" / 3 = sign::encode_sign_raw,
    "crypto.md5" / 1 = digest::md5,
    "crypto.sha1" / 1 = digest::sha1,
    "crypto.sha256" / 1 = digest::sha256,
    "crypto.hmac.md5" / 2 = digest::hmac_md5,
    "crypto.hmac.sha1" / 2 = digest::hmac_sha1,
    "crypto.hmac.sha256" / 2 = digest::hmac_sha256,
    "crypto.hmac.sha512" / 2 = digest::hmac_sha512,
    "crypto.hmac.equal" / 2 = digest::hmac_equal,
    "crypto.x509.parse_certificates" / 1 = x509::parse_certificates,
    "net.cidr_contains" / 2 = net::cidr_contains,
    "net.cidr_contains_matches" / 2 = net::cidr_contains_matches,
    "net.cidr_expand" / 1 = net::cidr_expand,
    "net.cidr_intersects" / 2 = net::cidr_intersects,
    "net.cidr_is_valid" / 1 = net::cidr_is_valid,
    "net.cidr_merge" / 1 = net::cidr_merge,
    "http.send" / 1 = send::send,
    "numbers.range" / 2 = limits::range,
    "numbers.range_step" / 3 = limits::range_step,
    "bits.lsh" / 2 = limits::lsh,
    "product" / 1 = limits::product,
    "units.parse" / 1 = amounts::parse,
    "units.parse_bytes" / 1 = amounts::parse_bytes,
    "lower" / 1 = letters::lower,
    "upper" / 1 = letters::upper,
    "concat" / 2 = text::concat,
    "replace" / 3 = text::replace,
    "strings.replace_n" / 2 = text::replace_n,
    "indexof" / 2 = text::indexof,
    "indexof_n" / 2 = text::indexof_n,
    "regex.match" / 2 = patterns::is_match,
    "regex.is_valid" / 1 = patterns::is_valid,
    "regex.find_n" / 3 = patterns::find_n,
    "regex.find_all_string_submatch_n" / 3 = patterns::find_all_string_submatch_n,
    "regex.split" / 2 = patterns::split,
    "regex.replace" / 3 = patterns::replace,
    "regex.template_match" / 4 = patterns::template_match,
    "regex.globs_match" / 2 = meets::globs_match,
    "glob.match" / 3 = patterns::glob_match,
    "glob.quote_meta" / 1 = patterns::quote_meta,
    "time.parse_rfc3339_ns" / 1 = strict::parse_rfc3339_ns,
    "time.parse_duration_ns" / 1 = times::parse_duration_ns,
    "time.add_date" / 4 = times::add_date,
    "urlquery.decode" / 1 = strict::urlquery_decode,
    "urlquery.decode_object" / 1 = strict::urlquery_decode_object,
    "semver.is_valid" / 1 = strict::semver_is_valid,
    "semver.compare" / 2 = strict::semver_compare,
    "sprintf" / 2 = sprintf::sprintf,
    "strings.count" / 2 = text::count,
    "strings.any_prefix_match" / 2 = text::any_prefix_match,
    "strings.any_suffix_match" / 2 = text::any_suffix_match,
    "trim" / 2 = text::trim,
    "trim_left" / 2 = text::trim_left,
    "trim_right" / 2 = text::trim_right,
    "union" / 1 = collections::union,
    "object.union" / 2 = collections::object_union,
    "object.union_n" / 1 = collections::object_union_n,
    "object.subset" / 2 = collections::subset,
    "graph.reachable_paths" / 2 = graphs::reachable_paths,
    "portcullis_walked" / 1 = graphs::walked,
    "json.filter" / 2 = paths::filter,
    "json.remove" / 2 = paths::remove,
    "to_number" / 1 = documents::to_number,
    "json.unmarshal" / 1 = documents::json_unmarshal,
    "json.is_valid" / 1 = documents::json_is_valid,
    "json.marshal" / 1 = documents::json_marshal,
    "base64.decode" / 1 = documents::base64_decode,
    "base64.is_valid" / 1 = documents::base64_is_valid,
    "base64url.decode" / 1 = documents::base64url_decode,
    "json.marshal_with_options" / 2 = documents::json_marshal_with_options,
    "yaml.unmarshal" / 1 = super::yaml::unmarshal,
    "yaml.is_valid" / 1 = documents::yaml_is_valid,
};

/// The builtin of a name.
pub(super) fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|b| b.name == name)
}

thread_local! {
    /// Whether a builtin that fails fails the evaluation on this thread.
    static STRICT: Cell<bool> = const { Cell::new(false) };
    /// The evaluation's time in nanoseconds since 1970, 0 before the first look.
    static NOW: Cell<i64> = const { Cell::new(0) };
    /// What fails the evaluation on this thread whatever it comes to.
    static FATAL: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Begins an evaluation on this thread.
pub(super) fn begin(strict: bool) {
    STRICT.set(strict);
    limits::begin();
    NOW.set(0);
    FATAL.set(None);
}

/// Why the evaluation that ended on this thread counts for nothing, whatever it came to.
pub(super) fn fatal() -> Option<String> {
    let asks = || send::is_asking().then(|| "http.send: its answer is waited for".to_owned());
    FATAL.take().or_else(asks)
}

/// The time, the same for a whole evaluation.
fn now_ns() -> i64 {
    if NOW.get() == 0 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        NOW.set(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
    }
    NOW.get()
}

fn answer(name: &str, answer: Answer) -> anyhow::Result<Value> {
    match answer {
        Ok(value) => Ok(value),
        Err(Fault::Failed(why)) if STRICT.get() => Err(anyhow!("{name}: {why}")),
        Err(Fault::Failed(_)) => Ok(Value::Undefined),
        Err(Fault::Fatal(why)) => {
            FATAL.set(Some(format!("{name}: {why}")));
            Err(LimitError::MemoryLimitExceeded { usage: 0, limit: 0 }.into())
        }
        Err(Fault::Asks) => Err(LimitError::MemoryLimitExceeded { usage: 0, limit: 0 }.into()),
        // Of this type, since the machine lets no other kind of error through.
        Err(Fault::Limit { wanted, limit }) => {
            Err(LimitError::MemoryLimitExceeded { usage: wanted, limit }.into())
        }
    }
}

/// Gives an interpreter all of them.
pub(super) fn extend(engine: &mut Engine) -> anyhow::Result<()> {
    for b in ALL {
        let (name, call) = (b.name, b.call);
        engine.add_extension(
            name.to_owned(),
            b.arity,
            Box::new(move |args: Vec<Value>| answer(name, call(&args))),
        )?;
    }
    Ok(())
}

/// What the compiler must take for calls of the host.
pub(super) fn declared() -> Vec<(&'static str, usize)> {
    ALL.iter().map(|b| (b.name, usize::from(b.arity))).collect()
}

/// Adds a builtin to a program's table.
fn add(
    program: &mut Program,
    linked: &mut Vec<(&'static str, u16)>,
    builtin: &'static Builtin,
) -> Result<u16, String> {
    // A name that regorus has no memory of, so that no result is kept past its evaluation.
    let info = BuiltinInfo { name: format!("portcullis:{}", builtin.name), num_args: 1 };
    let index = program.add_builtin_info(info);
    program.resolved_builtins.push((builtin.native, 1));
    if program.resolved_builtins.len() != usize::from(index) + 1 {
        return Err("its table of builtins is not whole".to_owned());
    }
    linked.push((builtin.name, index));
    Ok(index)
}

/// Puts builtin calls in place of a compiled program's calls of the host. The error says what it could not link.
pub(super) fn link(program: Arc<Program>) -> Result<Arc<Program>, String> {
    if !program.has_host_await {
        return Ok(program);
    }
    let mut program = Arc::unwrap_or_clone(program);
    let mut linked: Vec<(&'static str, u16)> = Vec::new();
    for pc in 0..program.instructions.len() {
        let Instruction::HostAwait { dest, arg, id } = program.instructions[pc] else { continue };
        // The compiler loads the name right before the call.
        let name = match pc.checked_sub(1).map(|before| program.instructions[before]) {
            Some(Instruction::Load { dest: at, literal_idx }) if at == id => {
                program.literals.get(usize::from(literal_idx)).and_then(|l| l.as_string().ok()).cloned()
            }
            _ => None,
        };
        let Some(builtin) = name.as_deref().and_then(find) else {
            return Err("it calls the host, which nothing answers".to_owned());
        };
        let known = linked.iter().find(|(n, _)| *n == builtin.name).map(|(_, index)| *index);
        let index = known.map_or_else(|| add(&mut program, &mut linked, builtin), Ok)?;
        let params =
            BuiltinCallParams { dest, builtin_index: index, num_args: 1, args: [arg, 0, 0, 0, 0, 0, 0, 0] };
        let params_index = program.add_builtin_call_params(params);
        program.instructions[pc] = Instruction::BuiltinCall { params_index };
    }
    program.has_host_await = false;
    Ok(Arc::new(program))
}

#[cfg(test)]
mod tests;
