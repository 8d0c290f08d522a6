# Files that are named in an option and stay on the node.
{ lib }:
let
  type = with lib.types; coercedTo path toString str; # never interpolated: that would copy the file into the store
  # systemd ignores a credential whose path is not normalized, with a line in the log.
  isPlain =
    path:
    builtins.match "(/[^/[:space:]%\"'\\]+)+" path != null && !lib.any (part: part == "." || part == "..") (lib.splitString "/" path);
  inStore = path: lib.hasPrefix "${builtins.storeDir}/" path;
in
{
  inherit type inStore;

  # A certificate and its key.
  certificate = lib.types.submodule {
    options = {
      certificate = lib.mkOption {
        type = type;
        description = "File on the node with the certificate, followed by its intermediates (PEM).";
      };
      key = lib.mkOption {
        type = type;
        description = "File on the node with its private key (PEM).";
      };
    };
  };

  # What is wrong with a path that systemd reads a credential from. `what` stands before "is", `example` is a good path.
  problems =
    {
      what,
      path,
      example,
    }:
    lib.optional (!isPlain path) (
      "${what} is \"${path}\", which is no absolute path, or has what systemd takes for something else (spaces, quotes, percent signs) or "
      + "ignores (. and .. between slashes); name a file on the node, such as ${example}"
    );
  secretProblems =
    {
      what,
      path,
      example,
    }:
    lib.optional (inStore path) (
      "${what} is in the store (${path}), where every user can read it; name the file on the node, such as ${example}"
    );
}
