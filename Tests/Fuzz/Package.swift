// swift-tools-version: 6.2
import PackageDescription

#if arch(x86_64)
    let engineTargets: [Target] = [.systemLibrary(name: "CIPSecMB")]
    let engineDependencies: [Target.Dependency] = ["CIPSecMB"]
#else
    let engineTargets: [Target] = []
    let engineDependencies: [Target.Dependency] = []
#endif

/// The harnesses of Tests/FuzzTests under libFuzzer: one library, which scripts/fuzz builds with instrumentation and links with
/// libFuzzer's `main`. The sources of the gateway are links.
let package = Package(
    name: "culvert",
    products: [.library(name: "Fuzz", type: .static, targets: ["Fuzz"])],
    dependencies: [.package(url: "https://github.com/apple/swift-collections", from: "1.6.0")],
    targets: [
        .target(name: "Wire"),
        .target(name: "IPsec", dependencies: ["Wire"]),
        .target(name: "IKE", dependencies: ["Wire", "IPsec", .product(name: "DequeModule", package: "swift-collections")]),
        .target(name: "COpenSSL"),
        .target(
            name: "Crypto", dependencies: ["COpenSSL", "IPsec", "IKE", "Wire"] + engineDependencies, path: "Sources",
            exclude: ["Crypto/SwiftEncapsulation.swift"], sources: ["Crypto", "WithoutSwiftCrypto"]),
        .target(name: "CLinux"),
        .target(name: "Platform", dependencies: ["CLinux", "Wire"], plugins: ["BPFCompiler"]),
        .target(
            name: "Dataplane",
            dependencies: ["CLinux", "COpenSSL", "Wire", "IPsec", "Crypto", "Platform"] + engineDependencies),
        .plugin(name: "BPFCompiler", capability: .buildTool()),
        .target(name: "Fuzz", dependencies: ["Dataplane", "Crypto", "IKE", "IPsec", "Wire"]),
    ] + engineTargets
)
