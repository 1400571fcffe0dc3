use super::*;
use simulation::chance::SeededRng;

/// What a job experiences of a code.
fn felt(code: &str, message: &str) -> (Class, compute::Error) {
    let refused = ApiError::Refused { code: code.to_owned(), message: message.to_owned(), status: 400 };
    let failure = Failure::from(refused);
    (failure.class, compute::Error::from(&failure))
}

#[test]
fn every_code_has_its_class_and_consequence() {
    use Class::*;
    let table = [
        (
            Throttled,
            "RequestLimitExceeded Throttling ThrottlingException TooManyRequestsException EC2ThrottledException",
        ),
        (Transient, "InternalError InternalFailure ServiceUnavailable Unavailable SomethingNew"),
        (
            Capacity,
            "InsufficientInstanceCapacity InsufficientCapacity UnfulfillableCapacity \
             InsufficientReservedInstancesCapacity InsufficientHostCapacity InsufficientFreeAddressesInSubnet \
             ReservationCapacityExceeded Unsupported SpotMaxPriceTooLow MaxSpotInstanceCountExceeded",
        ),
        (
            Quota,
            "VcpuLimitExceeded InstanceLimitExceeded MaxIOPSLimitExceeded VolumeLimitExceeded MaxFleetCountExceeded",
        ),
        (Invalid, "InvalidBlockDeviceMapping"),
        (
            Deployment,
            "InvalidLaunchTemplateName.NotFoundException InvalidLaunchTemplateId.NotFound \
             InvalidLaunchTemplateId.Malformed InvalidAMIID.NotFound InvalidAMIID.Unavailable InvalidSubnetID.NotFound \
             InvalidGroup.NotFound InvalidFleetConfig InvalidFleetConfiguration InvalidKeyPair.NotFound \
             InvalidKMSKey.InvalidState InvalidParameterValue InvalidParameterCombination InvalidParameter \
             MissingParameter ValidationError",
        ),
        (
            Credentials,
            "UnauthorizedOperation AuthFailure ExpiredToken ExpiredTokenException InvalidClientTokenId \
             UnrecognizedClientException OptInRequired Blocked PendingVerification \
             ServiceLinkedRoleCreationNotPermitted",
        ),
        (TokenReused, "IdempotentParameterMismatch"),
    ];
    for (class, codes) in table {
        for code in codes.split_ascii_whitespace() {
            let (got, error) = felt(code, "words");
            assert_eq!(got, class, "{code}");
            let fits = match class {
                Capacity | Quota => matches!(error, compute::Error::Capacity(_)),
                Deployment | Credentials => matches!(error, compute::Error::Deployment(_)),
                Invalid => matches!(error, compute::Error::Invalid(_)),
                _ => matches!(error, compute::Error::Transient(_)),
            };
            assert!(fits, "{code}: {error}");
            let (most, expected) = (tries(class), [(Throttled, 5), (Transient, 3)]);
            assert_eq!(most, expected.iter().find(|(c, _)| *c == class).map_or(1, |(_, n)| *n), "{code}");
        }
    }
}

#[test]
fn a_parameter_the_job_chose_is_the_jobs_fault() {
    assert_eq!(class_of("InvalidParameterValue", "Invalid value 'c9z.large' for InstanceType."), Class::Invalid);
    assert_eq!(class_of("InvalidParameterValue", "Volume of size 9GB is smaller than snapshot"), Class::Invalid);
    assert_eq!(class_of("InvalidParameterValue", "Invalid IAM Instance Profile name"), Class::Deployment);
}

#[test]
fn words_count_only_without_a_known_code() {
    assert_eq!(class_of("", "Insufficient Capacity in this zone"), Class::Capacity);
    assert_eq!(class_of("InternalError", "insufficient capacity"), Class::Transient);
}

#[test]
fn only_lost_answers_and_server_errors_are_ambiguous() {
    let refused = |code: &str, status| ApiError::Refused { code: code.to_owned(), message: String::new(), status };
    for (error, ambiguous) in [
        (ApiError::NoAnswer("timeout".to_owned()), true),
        (refused("InternalError", 500), true),
        (refused("SomethingNew", 503), true),
        (refused("RequestLimitExceeded", 503), false),
        (refused("InsufficientInstanceCapacity", 500), false),
        (ApiError::Credentials("none".to_owned()), false),
    ] {
        assert_eq!(Failure::from(error.clone()).ambiguous, ambiguous, "{error}");
    }
}

#[test]
fn pauses_grow_and_are_bounded() {
    let rng = SeededRng::new(7);
    for failed in 1..40 {
        let throttled = pause(Class::Throttled, failed, &rng);
        assert!(throttled <= Duration::from_secs(20) && throttled <= Duration::from_secs(1 << (failed - 1).min(10)));
        let other = pause(Class::Transient, failed, &rng);
        let base = if failed == 1 { 2.0 } else { 4.0 };
        assert!((base * 0.8..=base * 1.2).contains(&other.as_secs_f64()), "{other:?} after {failed}");
    }
}

#[test]
fn long_words_are_cut() {
    let long = "ü".repeat(2_000);
    let failure = Failure::from(ApiError::NoAnswer(long));
    assert_eq!(failure.message.chars().count(), 512);
}
