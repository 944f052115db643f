// swift-tools-version: 6.2
import PackageDescription

/// Memory safety is strict where bytes from the network and policy are handled; the four targets that
/// talk to kernels, NICs and C libraries keep their unsafe code small and commented instead.
let strict: [SwiftSetting] = [.strictMemorySafety(), .swiftLanguageMode(.v6)]
let systems: [SwiftSetting] = [.swiftLanguageMode(.v6)]

#if arch(x86_64)
    let engineTargets: [Target] = [
        .systemLibrary(name: "CIPSecMB", path: "Sources/CIPSecMB", providers: [.apt(["libipsec-mb-dev"])])
    ]
    let engineDependencies: [Target.Dependency] = ["CIPSecMB"]
#else
    let engineTargets: [Target] = []
    let engineDependencies: [Target.Dependency] = []
#endif

let package = Package(
    name: "culvert",
    products: [.executable(name: "culvert", targets: ["culvert"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.0"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.0"),
    ],
    targets: [
        .target(name: "CLinux", linkerSettings: [.linkedLibrary("bpf"), .linkedLibrary("xdp"), .linkedLibrary("numa")]),
        .target(name: "COpenSSL", linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]),
        .target(name: "Wire", swiftSettings: strict),
        .target(name: "IPsec", dependencies: ["Wire"], swiftSettings: strict),
        .target(
            name: "IKE",
            dependencies: ["Wire", "IPsec", .product(name: "DequeModule", package: "swift-collections")],
            swiftSettings: strict),
        .target(
            name: "Crypto",
            dependencies: [
                "COpenSSL", "IPsec", "IKE", "Wire",
                // Its module is called Crypto too; here it is ML-KEM's, until OpenSSL 3.5 is everywhere.
                .product(name: "Crypto", package: "swift-crypto", moduleAliases: ["Crypto": "SwiftCrypto"]),
            ] + engineDependencies,
            swiftSettings: systems),
        .target(name: "Platform", dependencies: ["CLinux", "Wire"], swiftSettings: systems, plugins: ["BPFCompiler"]),
        .target(
            name: "Dataplane", dependencies: ["CLinux", "COpenSSL", "Wire", "IPsec", "Crypto", "Platform"] + engineDependencies,
            swiftSettings: systems),
        .target(
            name: "Configuration", dependencies: ["Wire", "IPsec", "IKE", .product(name: "Yams", package: "Yams")],
            swiftSettings: strict),
        .target(
            name: "Gateway",
            dependencies: [
                "Wire", "IPsec", "IKE", "Crypto", "Platform", "Dataplane", "Configuration",
                .product(name: "DequeModule", package: "swift-collections"),
                .product(name: "NIOCore", package: "swift-nio"), .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "culvert",
            dependencies: [
                "Gateway", "Configuration", "Dataplane", "Crypto", "Platform", "IPsec", "Wire", "IKE",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: systems),
        .plugin(name: "BPFCompiler", capability: .buildTool()),
        .testTarget(name: "WireTests", dependencies: ["Wire"], swiftSettings: systems),
        .testTarget(name: "IPsecTests", dependencies: ["IPsec", "Wire"], swiftSettings: systems),
        .testTarget(name: "CryptoTests", dependencies: ["Crypto", "IKE", "IPsec", "Wire"], swiftSettings: systems),
        .testTarget(name: "IKETests", dependencies: ["IKE", "IPsec", "Wire", "Crypto", "COpenSSL"], swiftSettings: systems),
        // With Gateway and Dataplane for the SA lifecycle, which is simulated as it is.
        .testTarget(
            name: "Simulation", dependencies: ["Gateway", "Dataplane", "IKE", "IPsec", "Wire", "Crypto"], swiftSettings: systems),
        .testTarget(
            name: "FuzzTests", dependencies: ["Dataplane", "Crypto", "IKE", "IPsec", "Wire"], swiftSettings: systems),
        .testTarget(name: "PlatformTests", dependencies: ["Platform", "CLinux", "Wire"], swiftSettings: systems),
        .testTarget(
            name: "DataplaneTests", dependencies: ["Dataplane", "Crypto", "Platform", "IPsec", "Wire"], swiftSettings: systems),
        .testTarget(name: "ConfigurationTests", dependencies: ["Configuration", "IKE", "IPsec", "Wire"], swiftSettings: systems),
        .testTarget(
            name: "CommandTests", dependencies: ["culvert", "Gateway"], swiftSettings: systems),
        .testTarget(
            name: "GatewayTests",
            dependencies: [
                "Gateway", "Configuration", "Dataplane", "Platform", "Crypto", "IKE", "IPsec", "Wire",
                .product(name: "NIOCore", package: "swift-nio"), .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"), .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: systems),
    ] + engineTargets
)
