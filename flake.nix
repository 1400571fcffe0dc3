{
  description = "runs-fleet: GitHub Actions jobs on a company's own ephemeral machines";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      lib = nixpkgs.lib;
      manifest = (lib.importTOML ./Cargo.toml).workspace.package;
      everywhere = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      onLinux = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];

      # What cargo reads, and nothing else: a change to a document rebuilds nothing.
      source = lib.fileset.toSource {
        root = ./.;
        fileset = lib.fileset.unions [
          ./Cargo.toml
          ./Cargo.lock
          ./clippy.toml
          ./rustfmt.toml
          ./crates
        ];
      };

      # A program of the workspace. Dependencies come from Cargo.lock, which pins their hashes.
      program =
        pkgs: name: flags:
        pkgs.rustPlatform.buildRustPackage {
          pname = name;
          version = manifest.version;
          src = source;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package"
            name
          ]
          ++ flags;
          RUNS_FLEET_COMMIT = self.rev or "dirty";
          # Tests have a check of their own.
          doCheck = false;
          meta.mainProgram = name;
        };

      # A check that runs cargo on the whole workspace, offline.
      check =
        pkgs: name: command:
        pkgs.rustPlatform.buildRustPackage {
          pname = "runs-fleet-${name}";
          version = manifest.version;
          src = source;
          cargoLock.lockFile = ./Cargo.lock;
          nativeBuildInputs = [
            pkgs.clippy
            pkgs.rustfmt
          ];
          buildPhase = command;
          doCheck = false;
          installPhase = "touch $out";
        };
    in
    {
      packages = onLinux (
        system:
        let
          # Static, as in the image and on the runner machines.
          pkgs = nixpkgs.legacyPackages.${system}.pkgsStatic;
          # Without the simulation of the orchestrator itself.
          server = program pkgs "runs-fleet-server" [
            "--no-default-features"
            "--features=aws,local"
          ];
        in
        {
          inherit server;
          default = server;
          agent = program pkgs "runs-fleet-agent" [ ];

          # The image of the Dockerfile, reproducible: the time stamp is fixed.
          docker =
            let
              host = nixpkgs.legacyPackages.${system};
            in
            host.dockerTools.buildLayeredImage {
              name = "runs-fleet";
              tag = manifest.version;
              contents = [ host.dockerTools.caCertificates ];
              fakeRootCommands = ''
                mkdir -p app etc var/lib/runs-fleet
                cp ${server}/bin/runs-fleet-server app/server
                echo 'runs-fleet:x:1000:1000::/app:/sbin/nologin' > etc/passwd
                echo 'runs-fleet:x:1000:' > etc/group
                install -d -m 1777 tmp
                chown 1000:1000 var/lib/runs-fleet
              '';
              config = {
                Entrypoint = [ "/app/server" ];
                WorkingDir = "/app";
                User = "1000:1000";
                ExposedPorts."8080/tcp" = { };
              };
            };
        }
      );

      apps = onLinux (system: rec {
        server = {
          type = "app";
          program = lib.getExe self.packages.${system}.server;
        };
        default = server;
      });

      devShells = everywhere (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          default = pkgs.mkShell {
            packages = with pkgs; [
              cargo
              rustc
              clippy
              rustfmt
              rust-analyzer
              cargo-deny
              cargo-llvm-cov
              nodejs
              python3
              jq
              awscli2
              actionlint
              shellcheck
            ];
            AWS_REGION = "ap-northeast-1";
          };
        }
      );

      checks = onLinux (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          fmt = check pkgs "fmt" "cargo fmt --all --check";
          lint = check pkgs "lint" "cargo clippy --offline --workspace --all-targets -- -D warnings";
          # The tests beside the code. Those of whole crates want npm packages, and so the network: `make test`.
          test = check pkgs "test" "cargo test --offline --workspace --lib --bins";
        }
      );
    };
}
