use super::*;

fn rules(json: &str) -> Aliases {
    Aliases::parse(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn one(label: &str, aliases: &Aliases) -> Result<LabelSpec, LabelError> {
    parse(&set(&[label]), aliases)
}

#[test]
fn nothing_configured() {
    for json in ["", "  \n", "null", "[]", " [ ] "] {
        assert_eq!(one("ci-8x", &rules(json)).unwrap_err().category, Category::NoMarker, "{json:?}");
    }
}

#[test]
fn a_literal_matches_the_whole_label_and_expands_to_itself() {
    let aliases = rules(r#"[{"match":"ci.8x","spec":"cpu=8/region=$0$1"}]"#);
    let spec = one("ci.8x", &aliases).unwrap();
    assert_eq!((spec.form, spec.cpu_min, spec.region.as_str()), (Form::Alias, 8, "$0$1"));
    assert_eq!((spec.original_label.as_str(), spec.alias_label.as_str()), ("ci.8x", "ci.8x"));
    for label in ["ci-8x", "CI.8x", "ci.8x ", "xci.8x"] {
        assert_eq!(one(label, &aliases).unwrap_err().category, Category::NoMarker, "{label}");
    }
    assert!(
        to_json(&Ok(spec)).starts_with(r#"{"form":"alias","run_id":"","original_label":"ci.8x","alias_label":"ci.8x""#)
    );
}

#[test]
fn an_expression_matches_anywhere_and_fills_the_template() {
    for (pattern, template, label, region) in [
        (r"ci-(\d+)x", "region=$1", "a-ci-16x-b", "16"),
        (r"ci-(\d+)x", "region=${1}abc", "ci-16x", "16abc"),
        (r"ci-(\d+)x", "region=a$1abc", "ci-16x", "a"),
        (r"(?P<n>\d+)x-(?P<arch>\w+)", "region=$n-${arch}", "8x-arm64", "8-arm64"),
        (r"(a)?b", "region=<$1>", "b", "<>"),
        (r"b", "region=<$9$nope>", "b", "<>"),
        (r"b", "region=$$1", "b", "$1"),
        (r"(?i)CI", "region=$0", "ci", "ci"),
    ] {
        let json = serde_json::json!([{ "match": pattern, "regex": true, "spec": template }]).to_string();
        let spec = one(label, &rules(&json)).unwrap();
        assert_eq!((spec.region.as_str(), spec.form), (region, Form::Alias), "{pattern} {template}");
    }
    let ascii = rules(r#"[{"match":"^ci-\\d+$","regex":true,"spec":"cpu=4"}]"#);
    assert!(one("ci-4", &ascii).is_ok() && one("ci-٤", &ascii).is_err());
}

#[test]
fn label_order_before_rule_order_and_markers_before_both() {
    let aliases = rules(r#"[{"match":"b","spec":"cpu=8"},{"match":"^[ab]$","regex":true,"spec":"cpu=16"}]"#);
    let cpu = |labels: &[&str]| parse(&set(labels), &aliases).unwrap().cpu_min;
    assert_eq!(cpu(&["a", "b"]), 16, "the first label that any rule matches");
    assert_eq!(cpu(&["b", "a"]), 8, "the first rule that matches it");
    assert_eq!(cpu(&["x", "b"]), 8);
    let marked = parse(&set(&["a", "runs-fleet/cpu=2"]), &aliases).unwrap();
    assert_eq!((marked.form, marked.cpu_min, marked.alias_label.as_str()), (Form::Slash, 2, ""));
}

#[test]
fn the_label_names_the_pool_unless_the_rule_does() {
    let pool = |spec: &str, label: &str| {
        let json = serde_json::json!([{ "match": ".", "regex": true, "spec": spec }]).to_string();
        let spec = one(label, &rules(&json)).unwrap();
        (spec.pool.map(|p| p.as_str().to_owned()).unwrap_or_default(), codes(&spec.warnings).join(","))
    };
    let own = |name: &str, warnings: &str| (name.to_owned(), warnings.to_owned());
    assert_eq!(pool("cpu=4", "ci-8x"), own("ci-8x", ""));
    assert_eq!(pool("cpu=4", "ci.8x"), own("", ""));
    assert_eq!(pool("pool=other", "ci-8x"), own("other", ""));
    assert_eq!(pool("pool=", "ci-8x"), own("ci-8x", "empty_value"));
    assert_eq!(pool("pool=__x", "ci-8x"), own("", "invalid_pool"));
}

#[test]
fn a_spec_may_use_any_key_and_an_expansion_may_fail() {
    let aliases = rules(
        r#"[{"match":"^ci-(.*)$","regex":true,"spec":"runner=$1"},{"match":"x(.)","regex":true,"spec":"cpu=$1"}]"#,
    );
    assert_eq!(one("ci-4cpu-linux-amd64", &aliases).unwrap().instance_type, "c6i.xlarge");
    let error = one("xy", &aliases).unwrap_err();
    assert_eq!((error.category, error.is_ours()), (Category::InvalidCpu, true));
    let long = set(&["x4", &"l".repeat(257)]);
    assert_eq!(parse(&long, &aliases).unwrap_err().category, Category::LabelTooLong);
}

#[test]
fn bad_rules_are_named() {
    let good = r#"{"match":"a","spec":"cpu=4"}"#;
    for (rule, problem) in [
        ("7", "must be an object"),
        ("null", "must be an object"),
        ("[]", "must be an object"),
        (r#"{"spec":"cpu=4"}"#, "match must not be blank"),
        (r#"{"match":"  ","spec":"cpu=4"}"#, "match must not be blank"),
        (r#"{"match":"a"}"#, "spec must not be blank"),
        (r#"{"match":"a","spec":"\t"}"#, "spec must not be blank"),
        (r#"{"match":1,"spec":"cpu=4"}"#, "match must be a string"),
        (r#"{"match":"a","spec":"cpu=4","regex":"yes"}"#, "regex must be true or false"),
        (r#"{"match":"a","spec":"cpu=x"}"#, "spec: invalid_cpu"),
        (r#"{"match":"a","spec":"gen=8/family=t3"}"#, "spec: no_matching_instance"),
        (r#"{"match":"(","spec":"cpu=4","regex":true}"#, "match does not compile"),
        (r#"{"match":"(?=a)","spec":"cpu=4","regex":true}"#, "match does not compile"),
    ] {
        let error = Aliases::parse(&format!("[{good},{rule}]")).unwrap_err();
        assert_eq!(error.rule, Some(1), "{rule}");
        assert!(error.problem.starts_with(problem), "{rule}: {error}");
        assert!(error.to_string().starts_with("invalid_alias_config: rule 1: "), "{error}");
    }
    for json in ["{}", "7", "[", r#"[{"match":"a","spec":"cpu=4"}] x"#] {
        let error = Aliases::parse(json).unwrap_err();
        assert_eq!(error.rule, None, "{json}");
        assert!(error.to_string().starts_with("invalid_alias_config: "), "{error}");
    }
    // An expression's spec is judged when it expands; warnings alone reject no rule.
    rules(r#"[{"match":"a","regex":true,"spec":"cpu=x"},{"match":"b","spec":"nope=1"}]"#);
}

#[test]
fn unknown_fields_are_told() {
    let aliases = rules(r#"[{"match":"a","spec":"cpu=4"},{"match":"b","spec":"cpu=4","Regex":true,"note":"x"}]"#);
    assert_eq!(aliases.unknown_fields(), ["1.Regex", "1.note"]);
}
