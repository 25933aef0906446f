//! Changes to a module's text before regorus reads it. No line moves, so errors name the right one.
//!
//! * Imports are written out: see [`imports`].
//! * `f(x, y)` of a builtin of ours becomes `f(x) = y`: regorus takes the form with an output argument for its own
//!   builtins alone.
//! * `not` and `walk` are read as OPA reads them: see [`negation`] and [`relations`].
//! * In tests, what a `with` puts in place of `input` or of a data document is shown to [`super::replay`].

use regorus::unstable::{Expr, LiteralStmt, Query, Ref, Rule, RuleHead};
use serde_json::Value;

use super::{builtins, hazards, machine};

mod imports;
mod negation;
mod relations;

pub(super) use negation::{RuleNames, children};

/// The builtin that tests show their values to.
pub(super) const SEEN: &str = "portcullis_seen";

/// What no name of a module may begin with.
pub(super) const OWN_NAMES: [&str; 4] = [negation::FRESH, relations::FRESH, relations::WALKED, SEEN];

/// The names of the rules of modules, each with its path and text.
pub(super) fn rule_names<'a>(modules: impl IntoIterator<Item = (&'a str, &'a str)>) -> RuleNames {
    let mut names = RuleNames::new();
    for (path, text) in modules {
        // Of one that does not parse the engine tells.
        let parsed = machine::parse_either(path, text);
        if let Ok(module) = parsed {
            negation::note(&mut names, &module);
        }
    }
    names
}

/// A module's text as both engines are to read it; `names` are of all modules of its set.
pub(super) fn mended(path: &str, text: &str, names: &RuleNames) -> String {
    let text = imports::mended(path, text);
    relations::mended(path, &negation::mended(path, &outputs(path, &text), names), names)
}

/// A module's text with calls in output form written as equations; the text itself where there are none.
fn outputs(path: &str, text: &str) -> String {
    if !builtins::ALL.iter().any(|b| text.contains(b.name)) {
        return text.to_owned();
    }
    let Some(tree) = tree(path, text) else { return text.to_owned() };
    let mut edits = Edits::default();
    for (kind, node) in hazards::nodes(&tree, &[]) {
        if !matches!(kind, "Expr" | "NotExpr") {
            continue;
        }
        let Some(call) = node.get("expr").and_then(|e| e.get("Call")) else { continue };
        let name = call.get("fcn").and_then(hazards::dotted);
        let Some(builtin) = name.as_deref().and_then(builtins::find) else { continue };
        let params = call.get("params").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let [.., before, last] = params else { continue };
        if params.len() != usize::from(builtin.arity) + 1 {
            continue;
        }
        let (Some((_, comma)), Some((start, end)), Some((_, close))) =
            (extent(before), extent(last), extent_of(call))
        else {
            continue;
        };
        edits.between(text, comma, start, ',', ") =");
        edits.between(text, end, close, ')', " ");
    }
    edits.apply(text)
}

/// A test module's text in which `with input as x` shows `x`. Each key is unique within the module: `module`, the
/// statement, which of its values, how many there are, and the path that it replaces.
///
/// A `with` that replaces a function stays as it is.
pub(super) fn shown(module: usize, path: &str, text: &str, is_function: impl Fn(&str) -> bool) -> String {
    let Some(tree) = tree(path, text) else { return text.to_owned() };
    let mut edits = Edits::default();
    for (statement, (_, list)) in
        hazards::nodes(&tree, &[]).filter(|(kind, _)| *kind == "with_mods").enumerate()
    {
        let modifiers = list.as_array().map_or(&[][..], Vec::as_slice);
        let targets: Vec<String> = modifiers.iter().filter_map(|m| hazards::dotted(m.get("refr")?)).collect();
        let plain = |t: &String| matches!(t.split('.').next(), Some("input" | "data")) && !is_function(t);
        if targets.len() != modifiers.len() || !targets.iter().all(plain) {
            continue;
        }
        for (i, (modifier, target)) in modifiers.iter().zip(&targets).enumerate() {
            // Objects' spans begin somewhere inside of them: the value's place is found from what is around it.
            let after = modifier.get("refr").and_then(extent).map_or(0, |(_, end)| end);
            let keyword = text.get(after..).and_then(|rest| rest.find(" as ")).map(|at| after + at + 4);
            let (Some(start), Some((_, end))) = (keyword, extent_of(modifier)) else { continue };
            edits.insert(start, format!("{SEEN}(\"{module}/{statement}/{i}/{}/{target}\", ", targets.len()));
            edits.insert(closed(text, end), ")".to_owned());
        }
    }
    edits.apply(text)
}

/// The syntax tree; none where the text does not parse, of which the engine then tells.
fn tree(path: &str, text: &str) -> Option<Value> {
    // Where calls stand is the same in both versions.
    let module = machine::parse_either(path, text);
    serde_json::to_value(module.ok()?).ok()
}

/// Has each query of a rule looked at that stands in none of its others.
fn queries_of(rule: &Rule, look: &mut dyn FnMut(&Query)) {
    let Rule::Spec { head, bodies, .. } = rule else { return };
    let value = match head {
        RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. } => assign.as_ref().map(|a| &a.value),
        RuleHead::Set { key, .. } => key.as_ref(),
    };
    if let Some(value) = value {
        queries_within(value, look);
    }
    for body in bodies {
        body.assign.iter().for_each(|a| queries_within(&a.value, look));
        look(&body.query);
    }
}

/// The same of an expression: those of its comprehensions.
fn queries_within(e: &Ref<Expr>, look: &mut dyn FnMut(&Query)) {
    match e.as_ref() {
        Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
            queries_within(term, look);
            look(query);
        }
        Expr::ObjectCompr { key, value, query, .. } => {
            queries_within(key, look);
            queries_within(value, look);
            look(query);
        }
        _ => children(e).into_iter().for_each(|e| queries_within(e, look)),
    }
}

/// Puts statements before one of a query; `first` has their text, with the modifiers that they are to have. `alone` is
/// whether it is so in its query.
fn put_before(
    text: &str,
    edits: &mut Edits,
    statement: &LiteralStmt,
    alone: bool,
    first: impl FnOnce(&str) -> String,
) {
    let start = statement.span.start as usize;
    let end = closed(text, statement.span.end as usize);
    let modifiers = statement.with_mods.first().and_then(|with| text.get(with.span.start as usize..end));
    let before = first(&modifiers.map(|with| format!(" {with}")).unwrap_or_default());
    // A body of one statement may have no braces.
    let bare = alone && follows_if(text.get(..start).unwrap_or_default());
    edits.insert(start, if bare { format!("{{ {before}") } else { before });
    if bare {
        edits.insert(end, " }".to_owned());
    }
}

/// Whether the last word of a text is `if`, comments left out.
fn follows_if(text: &str) -> bool {
    let mut text = text.trim_end();
    while let Some(line) = text.lines().next_back() {
        // A hash within a text has an odd number of quotation marks before it.
        let quoted = |at: usize| line[..at].matches(['"', '`']).count() % 2 == 1;
        let Some((at, _)) = line.match_indices('#').find(|(at, _)| !quoted(*at)) else { break };
        text = text[..text.len() - line.len() + at].trim_end();
    }
    let before = text.strip_suffix("if").map(|rest| rest.chars().next_back());
    before.is_some_and(|c| c.is_none_or(|c| !(c.is_alphanumeric() || c == '_')))
}

/// Where an expression ends whose span ends at `end`: that of a string leaves its quotation mark out.
pub(super) fn closed(text: &str, end: usize) -> usize {
    end + usize::from(matches!(text.as_bytes().get(end), Some(b'"' | b'`')))
}

/// Where an expression stands in the text.
fn extent(expression: &Value) -> Option<(usize, usize)> {
    expression.as_object()?.values().next().and_then(extent_of)
}

fn extent_of(node: &Value) -> Option<(usize, usize)> {
    let span = node.get("span")?;
    let at = |name: &str| span.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    Some((at("start")?, at("end")?))
}

/// Replacements in a text, by place.
#[derive(Default)]
pub(super) struct Edits(Vec<(usize, usize, String)>);

impl Edits {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn insert(&mut self, at: usize, text: String) {
        self.0.push((at, at, text));
    }

    /// Puts a text in place of another.
    pub fn replace(&mut self, start: usize, end: usize, with: &str) {
        self.0.push((start, end, with.to_owned()));
    }

    /// A part of the text with the edits in it, which are then no edits of the whole any more.
    pub fn cut(&mut self, text: &str, start: usize, end: usize) -> Option<String> {
        let inside = |(from, to, _): &(usize, usize, String)| start <= *from && *to <= end;
        let mut part = Self(self.0.iter().filter(|e| inside(e)).cloned().collect());
        self.0.retain(|e| !inside(e));
        part.0.iter_mut().for_each(|(from, to, _)| {
            *from -= start;
            *to -= start;
        });
        text.get(start..end).map(|text| part.apply(text))
    }

    /// Replaces `what` between two places, comments left alone; where it is a bracket, a comma before it goes too.
    fn between(&mut self, text: &str, from: usize, to: usize, what: char, with: &str) {
        let mut comment = false;
        let mut done = false;
        for (i, c) in text.get(from..to).unwrap_or_default().char_indices() {
            match c {
                '#' => comment = true,
                '\n' => comment = false,
                _ if comment => {}
                _ if c == what && !done => {
                    self.0.push((from + i, from + i + 1, with.to_owned()));
                    done = true;
                }
                ',' if what == ')' => self.0.push((from + i, from + i + 1, " ".to_owned())),
                _ => {}
            }
        }
    }

    /// The text with all of them.
    pub fn apply(mut self, text: &str) -> String {
        self.0.sort_by_key(|(start, end, _)| (*start, *end));
        let (mut out, mut at) = (String::with_capacity(text.len() + 64 * self.0.len()), 0);
        for (start, end, with) in self.0 {
            let Some(kept) = text.get(at..start) else { return text.to_owned() };
            out.push_str(kept);
            out.push_str(&with);
            at = end;
        }
        out.push_str(text.get(at..).unwrap_or_default());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_arguments_become_equations_and_lines_stay() {
        let text = "package p\nimport rego.v1\n# io.jwt.decode(x, y)\n\
            a := p if io.jwt.decode(input.t, [_, p, _])\n\
            b if { not io.jwt.verify_hs256(\n  input.t,\n  \"k\", # a, comment\n  x,\n) }\n\
            c := io.jwt.decode(input.t)[1]\n\
            d := [x | crypto.sha256((\"é\"), x)]\n\
            e if input.x\n";
        let out = outputs("p.rego", text);
        assert_eq!(out.lines().count(), text.lines().count());
        for line in [
            "# io.jwt.decode(x, y)",
            "a := p if io.jwt.decode(input.t) = [_, p, _] ",
            "  \"k\") = # a, comment",
            "c := io.jwt.decode(input.t)[1]",
            "d := [x | crypto.sha256((\"é\")) = x ]",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
        assert!(tree("p.rego", &out).is_some(), "{out}");
        assert_eq!(outputs("p.rego", "package p\nx := {"), "package p\nx := {");
    }

    #[test]
    fn imports_are_written_out_where_they_are_meant() {
        let text = "package p\nimport rego.v1\nimport data.lib\nimport data.q.deny as no\nimport input.user # who\n\
            a if lib.ok\nb if { lib := input.x; lib.ok }\nc(lib) if lib.ok\nd if { some lib in input.l; lib.ok }\n\
            e := [lib.x | some x in lib.all; [1 | lib := x; lib.y]]\nf if { every lib in lib.all { lib.ok } }\n\
            g := no if user.name == \"lib\"\nh := lib.f(user) if not no with lib.x as user with input.y as no\n\
            no[lib.k] := lib.v if lib.w\ni := lib.a if lib.b else := lib.c if { lib := 1; lib }\nj := data.lib.lib\n";
        let out = imports::mended("p.rego", text);
        assert_eq!(out.lines().count(), text.lines().count());
        for line in [
            "import rego.v1\n\n\n # who\n",
            "a if data.lib.ok\n",
            "b if { lib := input.x; lib.ok }\n",
            "c(lib) if lib.ok\n",
            "d if { some lib in input.l; lib.ok }\n",
            "e := [data.lib.x | some x in data.lib.all; [1 | lib := x; lib.y]]\n",
            "f if { every lib in data.lib.all { lib.ok } }\n",
            "g := data.q.deny if input.user.name == \"lib\"\n",
            "h := data.lib.f(input.user) if not data.q.deny with data.lib.x as input.user with input.y as data.q.deny\n",
            "no[data.lib.k] := data.lib.v if data.lib.w\n",
            "i := data.lib.a if data.lib.b else := lib.c if { lib := 1; lib }\n",
            "j := data.lib.lib\n",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
        assert!(tree("p.rego", &out).is_some(), "{out}");
    }

    #[test]
    fn walk_gives_one_pair_after_the_other_and_is_measured() {
        let text = "package p\nimport rego.v1\n\
            a if { walk(input.x, [_, v]); v == 1 }\n\
            b := [v | [_, v] := walk({\"a\": f(input)})]\n\
            c if [_, 8] = walk(\"s\") with input as {}\n\
            d if walk(walk(input), x)\n\
            e := walk\n\
            f(walk) := walk\n\
            g if { not count(walk(input)) == 1; some x in walk([1,\n 2]) }\n\
            h := walk(input)\n";
        let out = mended("p.rego", text, &RuleNames::new());
        assert_eq!(out.lines().count(), text.lines().count());
        for line in [
            "a if { walk(portcullis_walked(input.x), [_, v]); v == 1 }",
            "b := [v | walk(portcullis_walked({\"a\": f(input)}), portcullis_pair_1_1); [_, v] := portcullis_pair_1_1]",
            "c if walk(portcullis_walked(\"s\"), [_, 8]) with input as {}",
            "d if { walk(portcullis_walked(input), portcullis_pair_1_2); walk(portcullis_walked(portcullis_pair_1_2), x) }",
            "e := walk\n",
            "portcullis_pair_1_3); portcullis_not_1_1 := count(portcullis_pair_1_3); not portcullis_not_1_1 == 1;",
            "walk(portcullis_walked([1,\n 2]), portcullis_pair_1_4); some x in portcullis_pair_1_4",
            "h := walk(input)\n",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
        assert!(tree("p.rego", &out).is_some(), "{out}");
    }

    #[test]
    fn what_not_asks_for_is_asked_for_before_it() {
        let text = "package p\nimport rego.v1\nimport data.lists\n\
            a if not startswith(input.path, \"/admin\")\n\
            b if { x := 1; not x == input.x }\n\
            c := 1 if not \"admin\" in input.roles else := 2 if not input.x\n\
            d := [x | some x in input.a; not x in lists]\n\
            e if not f(g(input.x)[\"a\"], [input.y, {\"k\": a}])\n\
            f(_, _) if not a\n\
            g(x) := x if not blocked[input.u].y with input as {\"u\": \"s\"}\n\
            h if { every x in input.a { not x < input.b } }\n\
            i if not count([x | some x in [1]; not x in input.c]) == 1\n\
            j if not data.b[\"k\"].c\n";
        let names = rule_names([("p.rego", text)]);
        let out = mended("p.rego", text, &names);
        assert_eq!(out.lines().count(), text.lines().count());
        for line in [
            "a if { portcullis_not_1_1 := input.path; not startswith(portcullis_not_1_1, \"/admin\") }",
            "b if { x := 1; not x == input.x }",
            "c := 1 if { portcullis_not_1_2 := input.roles; not \"admin\" in portcullis_not_1_2 } else := 2 if not input.x",
            "d := [x | some x in input.a; portcullis_not_1_3 := data.lists; not x in portcullis_not_1_3]",
            "f(_, _) if not a",
            "portcullis_not_1_7 := input.u with input as {\"u\": \"s\"}; not blocked[portcullis_not_1_7].y with input",
            "{ every x in input.a { portcullis_not_1_8 := input.b; not x < portcullis_not_1_8 } }",
            "some x in [1]; portcullis_not_2_1 := input.c; not x in portcullis_not_2_1])",
            "j if not data.b[\"k\"].c",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
        assert!(tree("p.rego", &out).is_some(), "{out}");
    }

    #[test]
    fn the_librarys_tests_can_be_shown() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");
        let text = std::fs::read_to_string(format!("{dir}/decision_test.rego")).unwrap();
        let out = shown(0, "p.rego", &text, |_| false);
        assert!(tree("p.rego", &out).is_some(), "{out}");
    }

    #[test]
    fn values_of_with_are_shown() {
        let text = "package p_test\nimport rego.v1\n\
            test_a if data.p.x with input as {\"a\": 1} with data.q.r as [1]\n\
            test_b if data.p.x with data.p.f as g with input as {}\n\
            test_d if data.p.x with data.p.h as data.p.g with input as {}\n\
            test_c if [1 | data.p.x with input.b as \"s\"]\n";
        let out = shown(3, "p.rego", text, |path| path == "data.p.h");
        assert!(
            out.contains("as portcullis_seen(\"3/") && out.contains("/0/2/input\", {\"a\": 1}) with"),
            "{out}"
        );
        assert!(out.contains("/1/2/data.q.r\", [1])\n"), "{out}");
        assert!(out.contains("with data.p.h as data.p.g with input as {}\n"), "{out}");
        assert!(out.contains("with input.b as portcullis_seen(\"3/"), "{out}");
        assert!(tree("p.rego", &out).is_some(), "{out}");
    }
}
