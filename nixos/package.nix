# Trivet's programs, from Cargo.lock. The source is what cargo reads and nothing else, so that a word changed in the
# documentation or in a module rebuilds no Rust.
{
  lib,
  rustPlatform,
  cmake,
}:
let
  root = ../.;
  manifest = lib.importTOML (root + "/Cargo.toml");
in
rustPlatform.buildRustPackage {
  pname = "trivet";
  inherit (manifest.workspace.package) version;
  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions [
      (root + "/Cargo.toml")
      (root + "/Cargo.lock")
      (root + "/src")
      # Not run here, but named by targets.
      (lib.fileset.maybeMissing (root + "/tests"))
      (lib.fileset.maybeMissing (root + "/benches"))
    ];
  };
  cargoLock.lockFile = root + "/Cargo.lock";
  nativeBuildInputs = [ cmake ]; # libz-ng-sys
  # The programs; the library in the root is that of the tests.
  cargoBuildFlags = [ "--bins" ];
  # The unit tests need nothing but a loopback interface; tests/ starts servers and MySQL, which the VM tests do for real.
  cargoTestFlags = [
    "--lib"
    "--bins"
  ];
  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.asl20;
    mainProgram = "trivet";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
