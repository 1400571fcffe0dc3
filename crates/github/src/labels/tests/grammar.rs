use domain::catalogue;
use domain::launch::Arch;

use super::*;

#[test]
fn markers() {
    for (label, form, run_id) in [
        ("runs-fleet", Form::Bare, ""),
        ("runs-fleet/", Form::Slash, ""),
        ("runs-fleet/cpu=4", Form::Slash, ""),
        ("runs-fleet=", Form::Legacy, ""),
        ("runs-fleet=/cpu=4", Form::Legacy, ""),
        ("runs-fleet=12345", Form::Legacy, "12345"),
        ("runs-fleet=12345/cpu=4", Form::Legacy, "12345"),
        ("runs-fleet=cpu=4", Form::Legacy, "cpu=4"),
        ("runs-fleet=not a number/", Form::Legacy, "not a number"),
    ] {
        let spec = spec(label);
        assert_eq!((spec.form, spec.run_id.as_str()), (form, run_id), "{label}");
        assert_eq!((spec.original_label.as_str(), spec.alias_label.as_str()), (label, ""));
        assert_eq!(codes(&spec.warnings), [""; 0], "{label}");
    }
    for label in ["runs-fleet-foo", "runs-fleetish", "Runs-Fleet", " runs-fleet", "runs-fleet ", "", "self-hosted"] {
        assert_eq!(refused(label), ("no_marker", vec![]), "{label:?}");
    }
    let nobody = parse(&[], &Aliases::none()).unwrap_err();
    assert!(!nobody.is_ours());
    assert!(read("runs-fleet/cpu=x").unwrap_err().is_ours());
}

#[test]
fn the_first_marker_is_the_only_label_read() {
    let labels = set(&["self-hosted", "runs-fleet/cpu=8", "runs-fleet=1/cpu=x"]);
    let spec = parse(&labels, &Aliases::none()).unwrap();
    assert_eq!((spec.cpu_min, spec.original_label.as_str()), (8, "runs-fleet/cpu=8"));
    assert_eq!(codes(&spec.warnings), ["multiple_markers"]);
    let twice = parse(&set(&["runs-fleet", "runs-fleet"]), &Aliases::none()).unwrap();
    assert_eq!(codes(&twice.warnings), ["multiple_markers"]);
}

#[test]
fn length_is_counted_in_characters_over_the_whole_set() {
    let with = |other: String| parse(&[other, "runs-fleet/cpu=x".to_owned()], &Aliases::none()).unwrap_err().category;
    assert_eq!(with("é".repeat(256)), Category::InvalidCpu);
    assert_eq!(with("e".repeat(257)), Category::LabelTooLong);
    assert_eq!(parse(&["x".repeat(300)], &Aliases::none()).unwrap_err().category, Category::NoMarker);
}

#[test]
fn bare_asks_for_two_to_four_cpus_on_either_architecture() {
    let spec = spec("runs-fleet");
    assert_eq!((spec.cpu_min, spec.cpu_max, spec.ram_min, spec.ram_max), (2, 4, 0.0, 0.0));
    assert_eq!((spec.os, spec.arch, spec.spot, spec.runner_spec.as_str()), ("linux", None, true, "2cpu-linux"));
    assert_eq!(spec.instance_type, "c8g.large");
    let expected = "c8g.large c7g.large c6i.large c7i.large m8g.large m7g.large m6i.large m7i.large r8g.large \
                    c8g.xlarge c7g.xlarge c6i.xlarge c7i.xlarge m8g.xlarge m7g.xlarge m6i.xlarge m7i.xlarge r8g.xlarge";
    assert_eq!(spec.instance_types, expected.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn cpu_bounds() {
    for (value, min, max, name) in [
        ("4", 4, 8, "4cpu-linux"),
        ("0", 2, 4, "2cpu-linux"),
        ("0+8", 2, 8, "2-8cpu-linux"),
        ("4+0", 4, 8, "4cpu-linux"),
        ("4+16", 4, 16, "4-16cpu-linux"),
        ("4-16", 4, 16, "4-16cpu-linux"),
        ("4+4", 4, 4, "4-4cpu-linux"),
        ("1", 1, 2, "1cpu-linux"),
        ("00004", 4, 8, "4cpu-linux"),
    ] {
        let spec = spec(&format!("runs-fleet/cpu={value}"));
        assert_eq!((spec.cpu_min, spec.cpu_max, spec.runner_spec.as_str()), (min, max, name), "cpu={value}");
    }
    for value in [
        "8+4",
        "-4",
        "+4",
        "4+",
        "4-",
        "4.5",
        "99999999999",
        "123456",
        "4+8+16",
        "4-8-16",
        "4+8-16",
        "4 ",
        " 4",
        "x",
        "0x4",
        "٤",
        "4,8",
        "NaN",
        "0+1",
    ] {
        assert_eq!(refused(&format!("runs-fleet/cpu={value}")), ("invalid_cpu", vec![]), "cpu={value}");
    }
    assert_eq!(refused("runs-fleet/cpu=99999").0, "no_matching_instance");
    assert_eq!(spec("runs-fleet/cpu=1/arch=arm64").instance_type, "c8g.medium");
}

#[test]
fn ram_bounds() {
    for (value, min, max) in [
        ("8", 8.0, 0.0),
        ("8+32", 8.0, 32.0),
        ("8-32", 8.0, 32.0),
        ("7.5", 7.5, 0.0),
        ("7.125+8.5", 7.125, 8.5),
        ("0+8", 0.0, 8.0),
        ("8+0", 8.0, 0.0),
        ("8+0.000", 8.0, 0.0),
        ("0", 0.0, 0.0),
    ] {
        let spec = spec(&format!("runs-fleet/ram={value}"));
        assert_eq!((spec.ram_min, spec.ram_max, spec.cpu_min, spec.cpu_max), (min, max, 2, 4), "ram={value}");
        for name in &spec.instance_types {
            let ram = f64::from(catalogue::lookup(name).unwrap().ram_gib);
            assert!(ram >= min && (max == 0.0 || ram <= max), "ram={value}: {name}");
        }
    }
    for value in [
        "32+8", "NaN", "nan", "Inf", "inf", "1e3", "1E3", "-8", "+8", "8+", ".5", "8.", "8.1234", "1234567", "8.5.5",
        "8GB", "0x8", "8+16+32", "1_000",
    ] {
        assert_eq!(refused(&format!("runs-fleet/ram={value}")), ("invalid_ram", vec![]), "ram={value}");
    }
    assert_eq!(refused("runs-fleet/ram=999999.999").0, "no_matching_instance");
}

#[test]
fn generation_and_disk() {
    assert_eq!(spec("runs-fleet/gen=7").gen_, 7);
    assert_eq!(spec("runs-fleet/gen=00008").gen_, 8);
    for value in ["0", "11", "-7", "+7", "7.0", "x", "000008", "99999"] {
        assert_eq!(refused(&format!("runs-fleet/gen={value}")).0, "invalid_gen", "gen={value}");
    }
    for gen_ in [3, 4, 10] {
        assert_eq!(refused(&format!("runs-fleet/gen={gen_}")).0, "no_matching_instance", "burstable is no default");
    }
    assert_eq!(spec("runs-fleet/gen=3/family=t3").instance_type, "t3.medium");
    assert_eq!(refused("runs-fleet/gen=8/family=t3").0, "no_matching_instance");

    for (value, gib) in [("1", 1), ("050", 50), ("16384", 16_384), ("016384", 16_384)] {
        assert_eq!(spec(&format!("runs-fleet/disk={value}")).storage_gib, gib);
    }
    for value in ["0", "16385", "+50", "-1", "50GB", "5.5", "0016384", "999999"] {
        assert_eq!(refused(&format!("runs-fleet/disk={value}")).0, "invalid_disk", "disk={value}");
    }
}

#[test]
fn families_as_written() {
    let spec = spec("runs-fleet=12345/cpu=4+16/ram=8+32/family=c7g+m7g");
    assert_eq!(spec.instance_types, ["c7g.xlarge", "m7g.xlarge", "c7g.2xlarge", "m7g.2xlarge", "c7g.4xlarge"]);
    assert_eq!((spec.instance_type, spec.runner_spec.as_str()), ("c7g.xlarge", "4-16cpu-linux"));

    let spec = super::spec("runs-fleet/family=+M7G++m7g+nope+C7g+");
    assert_eq!(spec.families, ["M7G", "nope", "C7g"]);
    assert_eq!(spec.instance_types, ["c7g.large", "m7g.large", "c7g.xlarge", "m7g.xlarge"]);
    assert_eq!(super::spec("runs-fleet/family=+").instance_types, super::spec("runs-fleet").instance_types);
    assert_eq!(refused("runs-fleet/family=nope").0, "no_matching_instance");
    assert_eq!(refused("runs-fleet/family=c7g/arch=amd64").0, "no_matching_instance");
}

#[test]
fn architecture() {
    for (value, arch) in [
        ("arm64", Arch::Arm64),
        ("aarch64", Arch::Arm64),
        ("ARM64", Arch::Arm64),
        ("AArch64", Arch::Arm64),
        ("amd64", Arch::Amd64),
        ("x64", Arch::Amd64),
        ("X64", Arch::Amd64),
        ("x86_64", Arch::Amd64),
    ] {
        let spec = spec(&format!("runs-fleet/arch={value}"));
        assert_eq!((spec.arch, codes(&spec.warnings)), (Some(arch), vec![]), "{value}");
        assert_eq!(spec.runner_spec, format!("2cpu-linux-{}", arch.as_str()));
        assert!(spec.instance_types.iter().all(|name| catalogue::lookup(name).unwrap().arch == arch));
    }
    let sparc = spec("runs-fleet/arch=sparc");
    assert_eq!((sparc.arch, codes(&sparc.warnings)), (None, vec!["unknown_arch"]));
    assert_eq!(sparc.instance_types, spec("runs-fleet").instance_types);
    assert_eq!(warned("runs-fleet/arch=arm"), ["unknown_arch"]);
}

#[test]
fn pool_names() {
    for name in ["a", "Default", "ci_x-1", "0", &"p".repeat(63)] {
        let spec = spec(&format!("runs-fleet/pool={name}"));
        assert_eq!((spec.pool.unwrap().as_str(), codes(&spec.warnings)), (name, vec![]));
    }
    for name in ["__instance_claim:i-0", "_a", "-a", "a.b", "a b", "é", &"p".repeat(64)] {
        let spec = spec(&format!("runs-fleet/pool={name}"));
        assert_eq!((spec.pool, codes(&spec.warnings)), (None, vec!["invalid_pool"]), "{name}");
    }
}

#[test]
fn switches() {
    for (label, private, public, spot, warned) in [
        ("private=true", true, false, true, false),
        ("private=false", false, false, true, false),
        ("private=True", false, false, true, true),
        ("private=1", false, false, true, true),
        ("public=true", false, true, true, false),
        ("public=TRUE", false, true, true, false),
        ("public=1", false, true, true, false),
        ("public=T", false, true, true, false),
        ("public=F", false, false, true, false),
        ("public=0", false, false, true, false),
        ("public=False", false, false, true, false),
        ("public=yes", false, false, true, true),
        ("spot=false", false, false, false, false),
        ("spot=true", false, false, true, false),
        ("spot=False", false, false, true, true),
        ("spot=0", false, false, true, true),
        ("private=true/public=true", true, true, true, false),
    ] {
        let spec = spec(&format!("runs-fleet/{label}"));
        assert_eq!((spec.private, spec.public, spec.spot), (private, public, spot), "{label}");
        assert_eq!(codes(&spec.warnings), if warned { vec!["ambiguous_bool"] } else { vec![] }, "{label}");
    }
}

#[test]
fn words() {
    let all = spec("runs-fleet/region=eu west-1/env=staging/backend=k8s");
    assert_eq!((all.region.as_str(), all.environment.as_str(), all.backend.as_str()), ("eu west-1", "staging", "k8s"));
    assert_eq!(spec("runs-fleet/backend=ec2").backend, "ec2");
    assert_eq!(warned("runs-fleet/env=Prod"), ["unknown_env"]);
    assert_eq!(spec("runs-fleet/env=Prod").environment, "");
    for value in ["EC2", "kubernetes", "ec2 "] {
        assert_eq!(refused(&format!("runs-fleet/backend={value}")).0, "invalid_backend");
    }
}

#[test]
fn segments() {
    for (text, cpu_min, warnings) in [
        ("//cpu=8//", 8, vec![]),
        ("cpu", 2, vec!["ignored_segment"]),
        ("CPU=8", 2, vec!["unknown_key"]),
        (" cpu=8", 2, vec!["unknown_key"]),
        ("=8", 2, vec!["unknown_key"]),
        ("arc=arm64/cpu=8", 8, vec!["unknown_key"]),
        ("nope=", 2, vec!["unknown_key"]),
        ("cpu=/ram=/gen=/disk=/backend=/family=/arch=/pool=/runner=", 2, vec!["empty_value"]),
        ("cpu=4/cpu=8", 8, vec!["duplicate_key"]),
        ("cpu=x/cpu=8", 8, vec!["duplicate_key"]),
        ("cpu=8/cpu=", 8, vec!["empty_value"]),
        ("nope=1/nope=2", 2, vec!["unknown_key"]),
        ("arch=sparc/arch=x64", 2, vec!["duplicate_key"]),
    ] {
        let spec = spec(&format!("runs-fleet/{text}"));
        assert_eq!((spec.cpu_min, codes(&spec.warnings)), (cpu_min, warnings), "{text}");
    }
    assert_eq!(refused("runs-fleet/cpu=4=8").0, "invalid_cpu");
    assert_eq!(spec("runs-fleet/region=a=b").region, "a=b");
    let all = "runs-fleet/x/y=/cpu=4/cpu=4/ram=/arch=mips/pool=-/spot=no/env=qa/runner=tiny";
    let labels = set(&[all, "runs-fleet"]);
    let spec = parse(&labels, &Aliases::none()).unwrap();
    let every = [
        "ambiguous_bool",
        "duplicate_key",
        "empty_value",
        "ignored_segment",
        "invalid_pool",
        "multiple_markers",
        "unknown_arch",
        "unknown_env",
        "unknown_key",
        "unknown_runner_spec",
    ];
    assert_eq!(codes(&spec.warnings), every);
    assert!(every.is_sorted());
}

#[test]
fn fixed_specs() {
    for (name, types) in [
        ("2cpu-linux-arm64", "t4g.medium t4g.large"),
        ("4cpu-linux-arm64", "c7g.xlarge m7g.xlarge c6g.xlarge"),
        ("8cpu-linux-arm64", "c7g.2xlarge m7g.2xlarge c6g.2xlarge"),
        ("16cpu-linux-arm64", "c7g.4xlarge m7g.4xlarge c6g.4xlarge"),
        ("32cpu-linux-arm64", "c7g.8xlarge m7g.8xlarge c6g.8xlarge"),
        ("2cpu-linux-amd64", "t3.medium t3.large"),
        ("4cpu-linux-amd64", "c6i.xlarge m6i.xlarge c7i.xlarge"),
        ("8cpu-linux-amd64", "c6i.2xlarge m6i.2xlarge c7i.2xlarge"),
        ("16cpu-linux-amd64", "c6i.4xlarge m6i.4xlarge c7i.4xlarge"),
        ("32cpu-linux-amd64", "c6i.8xlarge m6i.8xlarge c7i.8xlarge"),
        ("2cpu-windows-amd64", "t3.medium t3.large"),
        ("4cpu-windows-amd64", "m6i.xlarge m7i.xlarge c6i.xlarge"),
        ("8cpu-windows-amd64", "m6i.2xlarge m7i.2xlarge c6i.2xlarge"),
        ("16cpu-windows-amd64", "m6i.4xlarge m7i.4xlarge c6i.4xlarge"),
        ("32cpu-windows-amd64", "m6i.8xlarge m7i.8xlarge c6i.8xlarge"),
    ] {
        let spec = spec(&format!("runs-fleet/runner={name}"));
        assert_eq!(spec.instance_types.join(" "), types, "{name}");
        assert_eq!(spec.instance_type, spec.instance_types[0]);
        assert_eq!((spec.runner_spec.as_str(), spec.cpu_min, spec.cpu_max), (name, 0, 0));
        assert_eq!(spec.os, name.split('-').nth(1).unwrap());
        assert_eq!(spec.arch.unwrap().as_str(), name.split('-').nth(2).unwrap());
        assert_eq!(codes(&spec.warnings), [""; 0]);
        let cpus: u32 = name.split_once("cpu").unwrap().0.parse().unwrap();
        for t in spec.instance_types.iter().map(|name| catalogue::lookup(name).expect(name)) {
            assert_eq!((Some(t.arch), t.vcpu), (spec.arch, cpus), "{name}: {}", t.name);
        }
    }
}

#[test]
fn runner_names_that_are_not_in_the_table() {
    for (text, spec_name, os, arch, first, count) in [
        // (a) a known name and a dash
        ("runner=2cpu-linux-amd64-x", "2cpu-linux-amd64-x", "linux", Some(Arch::Amd64), "t3.medium", 2),
        ("runner=16cpu-linux-arm64-big", "16cpu-linux-arm64-big", "linux", Some(Arch::Arm64), "c7g.4xlarge", 3),
        ("runner=4cpu-windows-amd64-2022", "4cpu-windows-amd64-2022", "windows", Some(Arch::Amd64), "m6i.xlarge", 3),
        // (b) another size
        ("runner=64cpu-linux-arm64", "64cpu-linux-arm64", "linux", Some(Arch::Arm64), "c8g.16xlarge", 5),
        ("runner=1cpu-linux-arm64", "1cpu-linux-arm64", "linux", Some(Arch::Arm64), "c8g.medium", 5),
        ("runner=4cpu-linux", "4cpu-linux", "linux", None, "c8g.xlarge", 9),
        ("runner=4cpu-linux-amd64x", "4cpu-linux-amd64", "linux", Some(Arch::Amd64), "c6i.xlarge", 4),
        ("runner=4cpu-linux/arch=amd64", "4cpu-linux-amd64", "linux", Some(Arch::Amd64), "c6i.xlarge", 4),
        // (c) Windows
        ("runner=windows-2022", "windows-2022", "windows", None, "m6i.xlarge", 1),
        ("runner=64cpu-windows-amd64", "64cpu-windows-amd64", "windows", Some(Arch::Amd64), "m6i.xlarge", 1),
        // (d) amd64
        ("runner=big-amd64", "big-amd64", "linux", Some(Arch::Amd64), "t3.medium", 1),
        ("runner=big/arch=amd64", "big", "linux", Some(Arch::Amd64), "t3.medium", 1),
        // (e) whatever else
        ("runner=big", "big", "linux", None, "t4g.medium", 1),
        ("runner=123456cpu-linux-arm64", "123456cpu-linux-arm64", "linux", Some(Arch::Arm64), "t4g.medium", 1),
        ("runner=x4cpu-linux", "x4cpu-linux", "linux", None, "t4g.medium", 1),
    ] {
        let spec = spec(&format!("runs-fleet/{text}"));
        assert_eq!((spec.runner_spec.as_str(), spec.os, spec.arch), (spec_name, os, arch), "{text}");
        assert_eq!((spec.instance_type, spec.instance_types.len()), (first, count), "{text}");
        assert_eq!(codes(&spec.warnings), ["unknown_runner_spec"], "{text}");
    }
    let exact = spec("runs-fleet/runner=64cpu-linux-arm64");
    assert_eq!((exact.cpu_min, exact.cpu_max), (64, 64));
    assert_eq!(refused("runs-fleet/runner=6cpu-linux-arm64"), ("no_matching_instance", vec!["unknown_runner_spec"]));
}

#[test]
fn a_fixed_spec_with_flexible_keys_lends_its_architecture_only() {
    let lent = spec("runs-fleet/runner=32cpu-linux-amd64/cpu=2");
    assert_eq!((lent.runner_spec.as_str(), lent.cpu_min, lent.cpu_max), ("2cpu-linux-amd64", 2, 4));
    assert_eq!((lent.instance_type, lent.arch), ("c6i.large", Some(Arch::Amd64)));
    assert_eq!(spec("runs-fleet/runner=32cpu-linux-amd64/ram=16").cpu_max, 4);
    assert_eq!(warned("runs-fleet/runner=nope/cpu=2"), ["unknown_runner_spec"]);
    assert_eq!(spec("runs-fleet/runner=4cpu-linux-amd64/disk=50/arch=x64/spot=false").instance_type, "c6i.xlarge");
    assert_eq!(spec("runs-fleet/runner=4cpu-linux-amd64/cpu=").instance_type, "c6i.xlarge");
}

#[test]
fn contradictions() {
    for (text, category) in [
        ("runner=4cpu-linux-amd64/arch=arm64", "arch_conflict"),
        ("arch=arm64/runner=4cpu-linux-amd64", "arch_conflict"),
        ("runner=4cpu-linux-arm64/arch=x64/cpu=4", "arch_conflict"),
        ("runner=4cpu-windows-amd64/cpu=4", "os_conflict"),
        ("runner=4cpu-windows-amd64/ram=4", "os_conflict"),
        ("runner=4cpu-windows-amd64/gen=7", "os_conflict"),
        ("runner=4cpu-windows-amd64/family=m6i", "os_conflict"),
        ("runner=4cpu-windows-amd64/arch=arm64", "os_conflict"),
        ("runner=4cpu-windows-arm64", "os_conflict"),
        ("runner=windows-amd64-arm64", "os_conflict"),
    ] {
        assert_eq!(refused(&format!("runs-fleet/{text}")).0, category, "{text}");
    }
    assert_eq!(spec("runs-fleet/runner=4cpu-windows-amd64/arch=amd64").os, "windows");
    assert_eq!(spec("runs-fleet/runner=4cpu-linux-amd64/arch=sparc").arch, Some(Arch::Amd64));
}

#[test]
fn the_error_reported_is_the_first_in_the_fixed_order() {
    // Each step repairs the error before it; what is left is told, whatever the order of segments.
    let steps = [
        ("cpu=x", "cpu=0+1", "invalid_cpu"),
        ("ram=x", "ram=4", "invalid_ram"),
        ("gen=x", "gen=10", "invalid_gen"),
        ("disk=x", "disk=10", "invalid_disk"),
        ("backend=x", "backend=ec2", "invalid_backend"),
        ("runner=4cpu-windows-amd64", "runner=4cpu-linux-amd64", "os_conflict"),
        ("arch=arm64", "arch=x64", "arch_conflict"),
    ];
    let mut segments: Vec<&str> = steps.iter().map(|(bad, ..)| *bad).collect();
    for (index, (_, good, category)) in steps.iter().enumerate() {
        assert_eq!(refused(&format!("runs-fleet/{}", segments.join("/"))).0, *category);
        let reversed: Vec<&str> = segments.iter().rev().copied().collect();
        assert_eq!(refused(&format!("runs-fleet/{}", reversed.join("/"))).0, *category);
        segments[index] = good;
    }
    assert_eq!(refused(&format!("runs-fleet/{}", segments.join("/"))).0, "invalid_cpu", "crossed after defaulting");
    segments[0] = "cpu=1";
    assert_eq!(refused(&format!("runs-fleet/{}", segments.join("/"))).0, "no_matching_instance");
    assert_eq!(refused("runs-fleet/cpu=x/nope=1/arch=mips").1, ["unknown_arch", "unknown_key"], "warnings survive");
}

#[test]
fn json_has_every_field_in_order() {
    let line = to_json(&read("runs-fleet=7/cpu=4/arch=arm64/family=c7g/disk=20/pool=p/env=dev/nope=1"));
    let expected = concat!(
        r#"{"form":"legacy","run_id":"7","original_label":"#,
        r#""runs-fleet=7/cpu=4/arch=arm64/family=c7g/disk=20/pool=p/env=dev/nope=1","alias_label":"","#,
        r#""runner_spec":"4cpu-linux-arm64","os":"linux","arch":"arm64","cpu_min":4,"cpu_max":8,"ram_min":0.0,"#,
        r#""ram_max":0.0,"families":["c7g"],"gen":0,"storage_gib":20,"pool":"p","private":false,"public":false,"#,
        r#""spot":true,"region":"","environment":"dev","backend":"","instance_type":"c7g.xlarge","#,
        r#""instance_types":["c7g.xlarge","c7g.2xlarge"],"warnings":["unknown_key"]}"#
    );
    assert_eq!(line, expected);
    assert!(to_json(&read("runs-fleet")).contains(r#""arch":"","cpu_min":2"#));
    assert_eq!(to_json(&read("runs-fleet/cpu=x/y=z")), r#"{"error":"invalid_cpu","warnings":[]}"#);
    assert_eq!(to_json(&read("ubuntu")), r#"{"error":"no_marker","warnings":[]}"#);
}

#[test]
fn the_launch_spec_loses_nothing() {
    let label = "runs-fleet/cpu=4/ram=8+64/family=m7g/gen=7/arch=arm64/disk=9/pool=p/private=true/public=1/spot=false\
                 /region=r/env=prod/backend=k8s";
    let (spec, launch) = (spec(label), spec(label).launch_spec());
    let told: serde_json::Value = serde_json::from_str(&to_json(&Ok(spec))).unwrap();
    assert_eq!(launch.instance_type, told["instance_type"]);
    assert_eq!(serde_json::json!(launch.instance_types), told["instance_types"]);
    assert_eq!(serde_json::json!(launch.families), told["families"]);
    for (field, value) in [
        ("arch", launch.arch.unwrap().as_str()),
        ("os", &launch.os),
        ("runner_spec", &launch.runner_spec),
        ("pool", launch.pool.as_ref().unwrap().as_str()),
        ("region", &launch.region),
        ("environment", &launch.environment),
        ("backend", &launch.backend),
    ] {
        assert_eq!(told[field], value, "{field}");
        assert_ne!(value, "", "{field}");
    }
    assert_eq!((launch.private, launch.public, launch.spot), (true, true, false));
    assert_eq!((launch.cpu_min, launch.cpu_max, launch.gen_, launch.storage_gib), (4, 8, 7, 9));
    assert_eq!((launch.ram_min, launch.ram_max), (8.0, 64.0));
}
