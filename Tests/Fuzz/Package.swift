// swift-tools-version: 6.2
import PackageDescription

/// The fuzzing harnesses: each is one target `Fuzz…` with `LLVMFuzzerTestOneInput`, built by scripts/fuzz with libFuzzer's
/// instrumentation. The package has the house's own name, so that its `package` declarations are seen; the sources are links.
let package = Package(
    name: "culvert",
    products: [
        .library(name: "FuzzEAP", type: .static, targets: ["FuzzEAP"]),
        .library(name: "FuzzIKEMessage", type: .static, targets: ["FuzzIKEMessage"]),
        .library(name: "FuzzPacket", type: .static, targets: ["FuzzPacket"]),
    ],
    dependencies: [.package(url: "https://github.com/apple/swift-collections", from: "1.6.0")],
    targets: [
        .target(name: "Wire"),
        .target(name: "IPsec", dependencies: ["Wire"]),
        .target(name: "IKE", dependencies: ["Wire", "IPsec", .product(name: "DequeModule", package: "swift-collections")]),
        .target(name: "FuzzEAP", dependencies: ["IKE"]),
        .target(name: "FuzzIKEMessage", dependencies: ["IKE", "IPsec", "Wire"]),
        .target(name: "FuzzPacket", dependencies: ["Wire"]),
    ]
)
