# The `settings` of a Trivet program: free-form, because the program itself checks every key (`--check`, when the system is
# built), with our values as defaults that a site may override one by one.
{ lib, pkgs }:
let
  json = pkgs.formats.json { };
in
{
  option =
    program:
    lib.mkOption {
      inherit (json) type;
      default = { };
      description = ''
        Configuration of ${program}, in the words of its reference (`docs/`); derived from the cluster, each value can be
        overridden. Unknown keys and bad values fail the build.
      '';
    };
  defaults = lib.mapAttrsRecursive (_: lib.mkDefault);
  generate = json.generate;
}
