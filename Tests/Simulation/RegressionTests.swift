import Testing

/// Seeds that once found something, or that find it when the core is broken on purpose in this one way. They run always, in debug
/// too, each as its generation of scenarios drew it.
@Suite struct RegressionTests {
    struct Seed: CustomTestStringConvertible, Sendable {
        var number: UInt64
        var generation: Int
        /// What it once broke, or would break.
        var finds: String
        var testDescription: String { "\(number) of generation \(generation): \(finds)" }
    }

    static let seeds = [
        Seed(number: 3708, generation: 1, finds: "late news of an older pair took traffic back to it"),
        Seed(number: 1151, generation: 2, finds: "a hard limit was ignored while the child's deletion was under way"),
    ]

    @Test(arguments: seeds)
    func `what a seed once found stays mended`(_ seed: Seed) throws {
        #expect(try Run(Scenario(seed: seed.number, generation: seed.generation)).play() == nil)
    }

    @Test func `a scenario of an earlier generation has nothing in it that came later`() {
        for seed: UInt64 in 1...200 {
            let scenario = Scenario(seed: seed, generation: 1)
            let hasMeddling = scenario.mishaps.contains { if case .meddling = $0.what { true } else { false } }
            #expect(scenario.authentication == .presharedKey && !hasMeddling)
        }
    }
}
