# What is run before a change is taken, and in CI.
check:
    .ci/run

# What takes longer: many seeds, larger fleets.
long: build
    PROPTEST_CASES=10000 cargo test --locked -p potluck-model -p potluck-proto -p potluck-net -p potluck-server -p potluck-store
    FUZZ_SECONDS=600 RUST_TEST_THREADS=32 PROPTEST_RNG_SEED=$(date +%s) cargo test --locked -p potluck-fuzz --test targets
    FUZZ_SECONDS=600 PROPTEST_RNG_SEED=$(date +%s) cargo test --locked -p potluck-provision --lib archives_of_any_bytes
    for seed in $(seq 1 50); do for scenario in cold warm lossy faulty churn crashes partition outage sybils flood mixed; do \
        target/release/sim --nodes 60 --payload-mib 32 --seed $seed --scenario $scenario || exit 1; \
    done; done
    for seed in $(seq 51 500); do \
        target/release/sim --nodes 20 --payload-mib 8 --small 60 --seed $seed --scenario mixed || exit 1; \
    done
    target/release/sim --table --payload-mib 1024
    tests/netns/run --large --binary target/release/potluck
    just crash
    cargo test --locked -p potluck-provision --test steps -- --ignored --nocapture a_run_that_changes_nothing
    # As root, with a loop device: an ext4 that is shut down. Where that cannot be, it says so and fails.
    cargo test --locked -p potluck-provision --test power -- --ignored --nocapture
    # As root, with debootstrap and a package mirror: packages, a playbook and user-data in a real Debian. Likewise.
    cargo test --locked -p potluck-provision --test debian -- --ignored --nocapture

build:
    cargo build --locked --release -p potluck -p potluck-sim --bins

# The tests that need no root, no other programs and no network.
test:
    cargo test --workspace

# Executing processes and shims are killed, and their disks fail, at each of their fail points in turn.
crash runs="1000":
    POTLUCK_CRASH_RUNS={{ runs }} cargo test --locked -p potluck-provision --features fail-points --test crash -- --nocapture

# Namespaces only: `just netns warm_join`.
netns case="":
    cargo build -p potluck
    tests/netns/run {{ if case == "" { "" } else { "--only " + case } }}

demo:
    cargo run --release -- demo
