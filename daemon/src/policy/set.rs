//! A compiled policy set and its evaluation.

use std::{
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use regorus::{
    Engine, LimitError, Value,
    rvm::{
        program::Program,
        vm::{RegoVM, VmError},
    },
    utils::limits::ExecutionTimerConfig,
};

use super::{Decision, Input, Placed, PolicyError, builtins, pool::Pool, reads::Reads};

/// Longest value of a decision, in bytes, counted roughly.
const MAX_DECISION: usize = 64 * 1024;
/// Longest value of any other path: whole documents may be asked for.
const MAX_VALUE: usize = 64 << 20;

/// Steps of work between looks at the clock: about a microsecond's.
const CLOCK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// What evaluates the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// regorus's virtual machine.
    Rvm,
    /// regorus's interpreter, several times slower, since the set uses what the machine has not.
    Interpreter {
        /// What kind of reason that has.
        cause: Cause,
        /// Why.
        reason: String,
    },
}

/// Why a set runs on the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Builtins that fail are to fail the decision, which the RVM has not.
    Strict,
    /// It is Rego v0.
    V0,
    /// Its rules could contradict each other, which the RVM does not notice.
    Contradictable,
    /// A function of its own has the name of a builtin.
    Shadowed,
    /// A rule's head has parts that the RVM gets wrong.
    Heads,
    /// The RVM's compiler does not take it.
    Uncompiled,
    /// The RVM gave another answer in the set's own tests.
    Disagrees,
}

impl Cause {
    /// Its name in metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::V0 => "rego_v0",
            Self::Contradictable => "contradictable",
            Self::Shadowed => "shadowed",
            Self::Heads => "heads",
            Self::Uncompiled => "uncompiled",
            Self::Disagrees => "disagrees",
        }
    }
}

/// How far one evaluation may go.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub time: Duration,
    pub instructions: usize,
    pub strict: bool,
}

impl Limits {
    pub const fn timer(self) -> ExecutionTimerConfig {
        ExecutionTimerConfig { limit: self.time, check_interval: CLOCK_INTERVAL }
    }
}

impl EngineKind {
    /// Its name, in `status` and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rvm => "rvm",
            Self::Interpreter { .. } => "interpreter",
        }
    }

    /// Why it is the interpreter, if it is.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Rvm => None,
            Self::Interpreter { reason, .. } => Some(reason),
        }
    }

    /// The kind of reason, as metrics have it; `none` for the RVM.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Rvm => "none",
            Self::Interpreter { cause, .. } => cause.code(),
        }
    }
}

/// How far a set's own tests went before it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tested {
    /// Whether they had to pass.
    pub required: bool,
    /// Tests that were run.
    pub tests: usize,
    /// Tests that are not to be run yet (`todo_test_…`).
    pub skipped: usize,
    /// Cases of theirs in which both engines gave one answer.
    pub replayed: usize,
}

/// An immutable, compiled policy set. Many threads may evaluate it at once.
pub struct PolicySet {
    /// Made ready, cloned for each interpreter.
    prototype: Mutex<Engine>,
    program: Option<Arc<Program>>,
    kind: EngineKind,
    /// The decision's path, such as `data.portcullis.decision`.
    decision: String,
    data: Value,
    limits: Limits,
    hash: String,
    /// The hash, and that of the host's documents.
    stamp: String,
    modules: usize,
    tested: Tested,
    reads: Reads,
    asks: bool,
    machines: Pool<RegoVM>,
    interpreters: Pool<Engine>,
    /// See [`Self::left_out`].
    left_out: usize,
}

impl PolicySet {
    #[allow(clippy::too_many_arguments, reason = "one caller, which names each")]
    pub(super) fn new(
        mut prototype: Engine,
        program: Option<Arc<Program>>,
        kind: EngineKind,
        decision: String,
        data: Value,
        limits: Limits,
        hash: String,
        stamp: String,
        modules: usize,
        tested: Tested,
        reads: Reads,
        asks: bool,
    ) -> Self {
        prototype.set_execution_timer_config(limits.timer());
        let (machines, interpreters) = (Pool::new(), Pool::new());
        let prototype = Mutex::new(prototype);
        Self {
            prototype,
            program,
            kind,
            decision,
            data,
            limits,
            hash,
            stamp,
            modules,
            tested,
            reads,
            asks,
            machines,
            interpreters,
            left_out: 0,
        }
    }

    /// What evaluates the decision.
    pub const fn engine(&self) -> &EngineKind {
        &self.kind
    }

    /// The decision's path, such as `data.portcullis.decision`.
    pub fn decision(&self) -> &str {
        &self.decision
    }

    /// SHA-256 over the set's files, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What stands for the set and the host's documents together: another one is another generation.
    pub fn stamp(&self) -> &str {
        &self.stamp
    }

    /// What the decision depends on.
    pub const fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Whether it calls `http.send` anywhere.
    pub const fn asks(&self) -> bool {
        self.asks
    }

    /// How far its own tests went.
    pub const fn tested(&self) -> Tested {
        self.tested
    }

    /// Number of modules, tests not counted.
    pub const fn modules(&self) -> usize {
        self.modules
    }

    /// Evaluates the decision. Every error must be answered with a denial.
    pub fn eval_decision(&self, input: &Input) -> Result<Decision, PolicyError> {
        Decision::read(&self.decide(input)?)
    }

    /// Evaluates the decision and gives it as the policy wrote it beside how it was read.
    pub fn eval_decision_value(&self, input: &Input) -> Result<(Decision, serde_json::Value), PolicyError> {
        let value = self.decide(input)?;
        let decision = Decision::read(&value)?;
        let json = serde_json::to_value(&value).map_err(|e| PolicyError::Failed(e.to_string()))?;
        Ok((decision, json))
    }

    /// Whether a rule of this path below `data` could be in one of the set's packages.
    pub fn may_hold(&self, path: &[&str]) -> bool {
        let engine = self.prototype.lock().unwrap_or_else(PoisonError::into_inner);
        let path = format!("data.{}", path.join("."));
        let within = |package: &String| {
            path.strip_prefix(package.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        // Where packages cannot be listed, it is asked for rather than passed over.
        engine.get_packages().map_or(true, |packages| packages.iter().any(within))
    }

    /// The same, of which so many bodies were left out.
    pub(super) const fn leaving_out(mut self, bodies: usize) -> Self {
        self.left_out = bodies;
        self
    }

    /// How many bodies the RVM's copy was spared because the set's documents switch them off.
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether a path of `data` is the decision's.
    pub fn is_decision(&self, path: &[&str]) -> bool {
        self.decision.split('.').skip(1).eq(path.iter().copied())
    }

    /// The way from a path of `data` down to the decision; none where it does not lie below.
    pub fn down_to_decision(&self, path: &[&str]) -> Option<Vec<&str>> {
        let decision: Vec<_> = self.decision.split('.').skip(1).collect();
        let (above, below) = decision.split_at_checked(path.len())?;
        (above == path && !below.is_empty()).then(|| below.to_vec())
    }

    /// The decision's value on the machine and on the interpreter, where there is a machine. None where the interpreter
    /// fails: it takes for an error what OPA and the machine take for undefined (`some x in 1`).
    #[cfg(test)]
    pub(super) fn on_both(&self, input: &Input) -> Option<(Value, Value)> {
        let program = self.program.as_ref()?;
        let machine = self.run(program, input).unwrap_or(Value::Undefined);
        let interpreter = self.interpret(input, false, |e| e.eval_rule(self.decision.clone()));
        interpreter.ok().map(|interpreter| (machine, interpreter))
    }

    /// The value of any path in `data`, rules and base documents alike; `None` where it is undefined.
    pub fn eval_path(&self, path: &[&str], input: &Input) -> Result<Option<serde_json::Value>, PolicyError> {
        let value = if self.is_decision(path) {
            self.decide(input)?
        } else {
            let value = self.query(path, input, false, false)?;
            // A segment that is a number is an element's, too.
            let is_number = |segment: &&str| segment.parse::<u32>().is_ok();
            let value = match value {
                Value::Undefined if path.iter().any(is_number) => self.query(path, input, false, true)?,
                value => value,
            };
            bounded(value, MAX_VALUE)?
        };
        match value {
            Value::Undefined => Ok(None),
            value => serde_json::to_value(&value).map(Some).map_err(|e| PolicyError::Failed(e.to_string())),
        }
    }

    /// The builtin that fails when a path is evaluated, which otherwise makes its expression undefined.
    pub fn builtin_fault(&self, path: &[&str], input: &Input) -> Option<PolicyError> {
        self.query(path, input, true, false).err()
    }

    /// The decision's value.
    fn decide(&self, input: &Input) -> Result<Value, PolicyError> {
        let value = match &self.program {
            Some(program) => self.run(program, input),
            None => self.interpret(input, self.limits.strict, |e| e.eval_rule(self.decision.clone())),
        }?;
        bounded(value, MAX_DECISION)
    }

    /// Runs the program on a machine of the pool. One that failed or panicked is not used again.
    fn run(&self, program: &Arc<Program>, input: &Input) -> Result<Value, PolicyError> {
        let mut machine = match self.machines.take() {
            Some(machine) => machine,
            None => machine(program, &self.data, self.limits)?,
        };
        machine.set_input(input.0.clone());
        let value = guarded(false, || machine.execute())?.map_err(|e| match e {
            VmError::TimeLimitExceeded { .. } | VmError::InstructionLimitExceeded { .. } => {
                PolicyError::Timeout
            }
            e => PolicyError::Failed(first_line(&e.to_string())),
        })?;
        // No request's claims stay behind in an idle machine's input.
        machine.set_input(Value::Null);
        self.machines.give(machine);
        Ok(value)
    }

    /// Evaluates a query for a path, as OPA does: a builtin that fails is undefined, unless `strict`.
    /// Segments that are numbers are elements' of arrays where `by_number`.
    fn query(
        &self,
        path: &[&str],
        input: &Input,
        strict: bool,
        by_number: bool,
    ) -> Result<Value, PolicyError> {
        let mut query = "data".to_owned();
        for segment in path {
            if segment.chars().any(char::is_control) {
                return Ok(Value::Undefined);
            }
            // A JSON string is a Rego string.
            query.push('[');
            query.push_str(&match segment.parse::<u32>() {
                Ok(number) if by_number => number.to_string(),
                _ => serde_json::Value::from(*segment).to_string(),
            });
            query.push(']');
        }
        self.interpret_or(input, strict, placed_error, |engine| {
            let results = engine.eval_query(query, false)?.result;
            let first = results.into_iter().next().and_then(|r| r.expressions.into_iter().next());
            Ok(first.map_or(Value::Undefined, |e| e.value))
        })
    }

    /// Evaluates on an interpreter of the pool.
    fn interpret(
        &self,
        input: &Input,
        strict: bool,
        work: impl FnOnce(&mut Engine) -> anyhow::Result<Value>,
    ) -> Result<Value, PolicyError> {
        self.interpret_or(input, strict, interpreter_error, work)
    }

    /// The same; `fault` makes what is said of a failure.
    fn interpret_or(
        &self,
        input: &Input,
        strict: bool,
        fault: fn(&anyhow::Error) -> PolicyError,
        work: impl FnOnce(&mut Engine) -> anyhow::Result<Value>,
    ) -> Result<Value, PolicyError> {
        let mut engine = self
            .interpreters
            .take()
            .unwrap_or_else(|| self.prototype.lock().unwrap_or_else(PoisonError::into_inner).clone());
        engine.set_strict_builtin_errors(strict);
        engine.set_input(input.0.clone());
        let value = guarded(strict, || work(&mut engine))?.map_err(|e| fault(&e))?;
        engine.set_input(Value::Null);
        self.interpreters.give(engine);
        Ok(value)
    }
}

/// A machine for a program, within limits.
pub(super) fn machine(program: &Arc<Program>, data: &Value, limits: Limits) -> Result<RegoVM, PolicyError> {
    let mut machine = RegoVM::new();
    machine.load_program(program.clone());
    machine.set_data(data.clone()).map_err(|e| PolicyError::Failed(e.to_string()))?;
    machine.set_execution_timer_config(Some(limits.timer()));
    machine.set_max_instructions(limits.instructions);
    Ok(machine)
}

/// Runs an evaluation; a panic in it is an error like any other.
pub(super) fn guarded<T>(strict: bool, evaluation: impl FnOnce() -> T) -> Result<T, PolicyError> {
    builtins::begin(strict);
    let done = catch_unwind(AssertUnwindSafe(evaluation))
        .map_err(|_| PolicyError::Failed("the evaluation panicked".into()))?;
    // A machine may take an error for an undefined body.
    builtins::fatal().map_or(Ok(done), |why| Err(PolicyError::Failed(why)))
}

/// Refuses a value of more than `most` bytes, counted roughly: what is answered is copied and kept.
fn bounded(value: Value, most: usize) -> Result<Value, PolicyError> {
    let (mut todo, mut size) = (vec![&value], 0_usize);
    while let Some(v) = todo.pop() {
        size += match v {
            Value::String(s) => s.len() + 8,
            _ => 8,
        };
        match v {
            Value::Array(items) => todo.extend(items.iter()),
            Value::Set(items) => todo.extend(items.iter()),
            Value::Object(members) => members.iter().for_each(|(k, v)| todo.extend([k, v])),
            _ => {}
        }
        // What is still to be seen counts at least this much.
        if size + todo.len() * 8 > most {
            return Err(PolicyError::Failed(format!("its value has more than {most} bytes")));
        }
    }
    Ok(value)
}

fn interpreter_error(error: &anyhow::Error) -> PolicyError {
    let text = error.to_string();
    if matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. }))
        || text.contains("exceeded time limit")
    {
        return PolicyError::Timeout;
    }
    let message = text.lines().rev().find_map(|l| l.strip_prefix("error: ")).unwrap_or(&text);
    PolicyError::Failed(first_line(message))
}

/// The same with the place, where there is one.
fn placed_error(error: &anyhow::Error) -> PolicyError {
    let plain = interpreter_error(error);
    match (&plain, super::load::located(&error.to_string())) {
        (PolicyError::Failed(_), super::LoadError::Rego { file, line, column, message }) => {
            let file = std::path::Path::new(&file).file_name().map(|f| f.to_string_lossy().into_owned());
            let conflicts = message.starts_with("rule conflicts with rule");
            let is_conflict = conflicts || message.contains("multiple outputs");
            let message = if conflicts {
                // It names the other rule by its file's path.
                "complete rules must not produce multiple outputs".to_owned()
            } else {
                first_line(&message)
            };
            let placed = Placed { message, is_conflict, file: file.unwrap_or_default(), line, column };
            PolicyError::Placed(Box::new(placed))
        }
        _ => plain,
    }
}

/// A message's first line, cut short: an error may quote the policy, but not at length.
fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests;
