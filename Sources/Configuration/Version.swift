/// The one place where the version is written. `culvert version`, `--version`, status and logs all read it here.
public enum CulvertVersion {
    public static let current = "0.1.0"
}
