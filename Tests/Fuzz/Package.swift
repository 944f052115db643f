// swift-tools-version: 6.2
import PackageDescription

#if arch(x86_64)
    let engineTargets: [Target] = [.systemLibrary(name: "CIPSecMB")]
    let engineDependencies: [Target.Dependency] = ["CIPSecMB"]
#else
    let engineTargets: [Target] = []
    let engineDependencies: [Target.Dependency] = []
#endif

/// The fuzzing harnesses: each is one target `Fuzz…` with `LLVMFuzzerTestOneInput`, built by scripts/fuzz with libFuzzer's
/// instrumentation. The package has the house's own name, so that its `package` declarations are seen; the sources are links.
let package = Package(
    name: "culvert",
    products: [
        .library(name: "FuzzEAP", type: .static, targets: ["FuzzEAP"]),
        .library(name: "FuzzCertificate", type: .static, targets: ["FuzzCertificate"]),
        .library(name: "FuzzIKEMessage", type: .static, targets: ["FuzzIKEMessage"]),
        .library(name: "FuzzIKESession", type: .static, targets: ["FuzzIKESession"]),
        .library(name: "FuzzPacket", type: .static, targets: ["FuzzPacket"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.0"),
    ],
    targets: [
        .target(name: "Wire"),
        .target(name: "IPsec", dependencies: ["Wire"]),
        .target(name: "IKE", dependencies: ["Wire", "IPsec", .product(name: "DequeModule", package: "swift-collections")]),
        .target(name: "FuzzEAP", dependencies: ["IKE"]),
        .target(name: "COpenSSL", linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]),
        .target(
            name: "Crypto",
            dependencies: [
                "COpenSSL", "IPsec", "IKE", "Wire",
                .product(name: "Crypto", package: "swift-crypto", moduleAliases: ["Crypto": "SwiftCrypto"]),
            ] + engineDependencies),
        .target(name: "FuzzCertificate", dependencies: ["Crypto", "IKE", "IPsec"]),
        .target(name: "FuzzIKEMessage", dependencies: ["IKE", "IPsec", "Wire"]),
        .target(name: "FuzzIKESession", dependencies: ["IKE", "IPsec", "Wire"]),
        .target(name: "FuzzPacket", dependencies: ["Wire"]),
    ] + engineTargets
)
