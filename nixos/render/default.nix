# `nix run .#render`
{
  writeShellApplication,
  python3,
  nix,
  nixpkgs,
}:
writeShellApplication {
  name = "render";
  runtimeInputs = [
    python3
    nix
  ];
  text = ''
    export TRIVET_NIXPKGS="''${TRIVET_NIXPKGS:-${nixpkgs}}"
    export PYTHONDONTWRITEBYTECODE=1
    exec python3 ${./.}/render.py "$@"
  '';
}
