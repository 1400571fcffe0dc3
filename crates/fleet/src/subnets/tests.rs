use super::*;

fn subnet(id: &str, zone: &str, free_addresses: u32) -> Subnet {
    Subnet { id: id.to_owned(), zone: zone.to_owned(), free_addresses }
}

fn chosen(configured: &[&str], known: &[Subnet]) -> Vec<String> {
    let configured: Vec<String> = configured.iter().map(|id| (*id).to_owned()).collect();
    places(&configured, known).into_iter().map(|place| place.subnet.unwrap_or_default()).collect()
}

#[test]
fn the_first_of_each_zone_when_all_are_equal() {
    let known = [subnet("a1", "1a", 9), subnet("a2", "1a", 9), subnet("c1", "1c", 9), subnet("c2", "1c", 9)];
    assert_eq!(chosen(&["a1", "a2", "c1", "c2"], &known), ["a1", "c1"]);
    assert_eq!(chosen(&["c2", "a2", "c1", "a1"], &known), ["c2", "a2"]);
}

#[test]
fn the_emptiest_of_a_zone_takes_the_first_ones_place_in_the_order() {
    let known = [subnet("a1", "1a", 3), subnet("c1", "1c", 9), subnet("a2", "1a", 8)];
    assert_eq!(chosen(&["a1", "c1", "a2"], &known), ["a2", "c1"]);
}

#[test]
fn unknown_subnets_stay_and_repeated_ones_do_not() {
    assert_eq!(chosen(&["x", "y", "x", ""], &[]), ["x", "y"]);
    assert_eq!(chosen(&["x", "a1", "a1"], &[subnet("a1", "1a", 1)]), ["x", "a1"]);
}

#[test]
fn none_configured_leaves_the_choice_to_ec2() {
    assert_eq!(places(&[], &[]), [Place { subnet: None, zone: None }]);
    assert_eq!(places(&[String::new()], &[]), [Place { subnet: None, zone: None }]);
}
