import Foundation
import PackagePlugin

/// Compiles `bpf/culvert_xdp.c` with clang's bpf target and gives the target one Swift source that holds the object, so that
/// the binary carries its XDP program and a plain `swift build` is all it takes.
///
/// The Swift toolchain's own clang is used: it has the bpf target, and stands beside `swiftc`. Otherwise the first clang
/// in PATH.
@main
struct BPFCompiler: BuildToolPlugin {
    func createBuildCommands(context: PluginContext, target: Target) throws -> [Command] {
        let folder = context.package.directoryURL.appending(path: "bpf")
        let source = folder.appending(path: "culvert_xdp.c")
        let header = folder.appending(path: "culvert_xdp.h")
        let object = context.pluginWorkDirectoryURL.appending(path: "culvert_xdp.o")
        let output = context.pluginWorkDirectoryURL.appending(path: "EmbeddedXDPProgram.swift")
        return [
            .buildCommand(
                displayName: "Compiling culvert_xdp.c for BPF",
                executable: URL(fileURLWithPath: "/bin/sh"),
                arguments: [
                    "-ec", Self.script, "BPFCompiler", try clang(context).path, source.path, object.path, output.path,
                ],
                inputFiles: [source, header],
                outputFiles: [output])
        ]
    }

    /// `-g` because libbpf reads the maps from the type information; llvm-objcopy, where there is one, takes the DWARF out
    /// again. The headers of the C library lie in a folder named after the machine, which the bpf target does not know.
    private static let script = """
        clang=$1 source=$2 object=$3 output=$4
        headers=""
        for folder in /usr/include/$(uname -m)-linux-gnu /usr/include/aarch64-linux-gnu /usr/include/x86_64-linux-gnu; do
            if [ -d "$folder/asm" ]; then headers="-I$folder"; break; fi
        done
        if ! [ -e /usr/include/bpf/bpf_helpers.h ]; then
            echo "error: /usr/include/bpf/bpf_helpers.h is missing: install libbpf-dev (apt-get install libbpf-dev)" >&2
            exit 1
        fi
        if ! "$clang" -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror $headers -c "$source" -o "$object"; then
            echo "error: $clang could not compile $source for BPF: it needs clang's bpf target, libbpf-dev and" \\
                "linux-libc-dev (the clang of the Swift toolchain has the target)" >&2
            exit 1
        fi
        strip=$(dirname "$clang")/llvm-objcopy
        if [ -x "$strip" ]; then "$strip" -g "$object"; fi
        {
            echo "// Made by the BPFCompiler plugin from culvert_xdp.c."
            echo "/// The compiled XDP program: an ELF object, base64."
            printf 'let embeddedXDPProgram: StaticString = "'
            base64 -w 0 "$object"
            echo '"'
        } > "$output"
        """

    private func clang(_ context: PluginContext) throws -> URL {
        var candidates: [URL] = []
        // `swiftc` is a link to a link; clang is where the last one points.
        if let swiftc = try? context.tool(named: "swiftc").url {
            candidates += [swiftc, swiftc.resolvingSymlinksInPath()].map {
                $0.deletingLastPathComponent().appending(path: "clang")
            }
        }
        if let tool = try? context.tool(named: "clang").url { candidates.append(tool) }
        let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/local/bin:/usr/bin:/bin"
        candidates += path.split(separator: ":").map { URL(fileURLWithPath: String($0)).appending(path: "clang") }
        for candidate in candidates where FileManager.default.isExecutableFile(atPath: candidate.path) { return candidate }
        Diagnostics.error(
            """
            no clang found to compile bpf/culvert_xdp.c: use a Swift toolchain with its clang (swift.org's have it), or install \
            clang (apt-get install clang)
            """)
        throw MissingClang()
    }

    private struct MissingClang: Error, CustomStringConvertible {
        var description: String { "clang is missing" }
    }
}
