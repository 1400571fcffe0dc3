use domain::catalogue;
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;

fn aliases() -> Aliases {
    Aliases::parse(r#"[{"match":"ci-(.*)","regex":true,"spec":"$1"},{"match":"big","spec":"cpu=16"}]"#).unwrap()
}

/// A value that is often good, sometimes nearly, sometimes anything.
fn value() -> impl Strategy<Value = String> {
    let words = [
        "4",
        "2+8",
        "8-32",
        "0",
        "16",
        "7",
        "8",
        "c7g+m7g",
        "t3",
        "arm64",
        "x64",
        "true",
        "false",
        "1",
        "ec2",
        "k8s",
        "dev",
        "default",
        "4cpu-linux-arm64",
        "4cpu-linux-amd64-x",
        "2cpu-windows-amd64",
        "64cpu-linux",
        "big",
        "",
    ];
    prop_oneof![4 => prop::sample::select(words.map(str::to_owned).to_vec()), 1 => "[^/]{0,12}"]
}

const KEYS: [&str; 15] = [
    "runner", "cpu", "ram", "family", "gen", "arch", "disk", "pool", "private", "public", "spot", "region", "env",
    "backend", "nope",
];

/// Segments with distinct keys.
fn segments() -> impl Strategy<Value = Vec<String>> {
    subsequence(KEYS.to_vec(), 0..=6).prop_flat_map(|keys| {
        let count = keys.len();
        prop::collection::vec(value(), count)
            .prop_map(move |values| keys.iter().zip(values).map(|(key, value)| format!("{key}={value}")).collect())
    })
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => segments().prop_map(|s| format!("runs-fleet/{}", s.join("/"))),
        1 => segments().prop_map(|s| format!("runs-fleet=12/{}", s.join("/"))),
        1 => segments().prop_map(|s| format!("ci-{}", s.join("/"))),
        1 => "runs-fleet[/=]?\\PC{0,40}",
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn any_label_set_is_judged_and_always_the_same_way(labels in prop::collection::vec(label(), 0..4)) {
        let aliases = aliases();
        let first = parse(&labels, &aliases);
        prop_assert_eq!(&first, &parse(&labels, &aliases));
        let told: serde_json::Value = serde_json::from_str(&to_json(&first)).unwrap();
        prop_assert_eq!(told.get("error").is_some(), first.is_err());
        prop_assert!(told["warnings"].is_array());
    }

    #[test]
    fn every_chosen_type_satisfies_what_was_asked(label in label()) {
        if let Ok(spec) = parse(&[label], &aliases()) {
            prop_assert_eq!(Some(&spec.instance_type), spec.instance_types.first());
            for name in &spec.instance_types {
                let t = catalogue::lookup(name).unwrap();
                let ram = f64::from(t.ram_gib);
                prop_assert!(t.selectable);
                prop_assert!(spec.gen_ == 0 || spec.gen_ == t.gen_);
                prop_assert!(spec.cpu_min <= t.vcpu && (spec.cpu_max == 0 || t.vcpu <= spec.cpu_max));
                prop_assert!(spec.ram_min <= ram && (spec.ram_max == 0.0 || ram <= spec.ram_max));
                prop_assert!(
                    spec.families.is_empty() || spec.families.iter().any(|f| f.eq_ignore_ascii_case(t.family))
                );
                // A runner name that contradicts itself (`…-arm64-amd64`) keeps its row and is refused at launch.
                if spec.cpu_max > 0 {
                    prop_assert!(spec.arch.is_none_or(|arch| arch == t.arch));
                }
            }
            let sizes: Vec<_> = spec.instance_types.iter().map(|n| catalogue::lookup(n).unwrap().vcpu).collect();
            prop_assert!(spec.cpu_max == 0 || sizes.is_sorted());
        }
    }

    #[test]
    fn the_order_of_distinct_segments_does_not_matter(
        (segments, shuffled) in segments().prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle()))
    ) {
        let read = |segments: &[String]| {
            let label = format!("runs-fleet/{}", segments.join("/"));
            parse(&[label], &Aliases::none()).map(|spec| LabelSpec { original_label: String::new(), ..spec })
        };
        prop_assert_eq!(read(&segments), read(&shuffled));
    }

    #[test]
    fn other_labels_never_change_what_a_marker_asks_for(
        segments in segments(),
        others in prop::collection::vec("[a-z0-9-]{0,20}", 0..3),
    ) {
        let marker = format!("runs-fleet/{}", segments.join("/"));
        let mut labels = others;
        labels.retain(|label| label != "runs-fleet");
        labels.push(marker.clone());
        prop_assert_eq!(parse(&labels, &aliases()), parse(&[marker], &Aliases::none()));
    }

    #[test]
    fn any_alias_text_is_accepted_or_refused(json in any::<String>(), pattern in "\\PC{0,20}", spec in "\\PC{0,20}") {
        let _ = Aliases::parse(&json);
        let rule = serde_json::json!([{ "match": pattern, "regex": true, "spec": spec }]).to_string();
        if let Ok(aliases) = Aliases::parse(&rule) {
            let _ = parse(&[pattern], &aliases);
        }
    }
}
