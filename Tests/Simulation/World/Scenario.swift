import IKE
import IPsec
import Wire

/// What may happen to a pair of gateways at one moment of a scenario. 0 is east, 1 is west.
enum Mishap {
    case weather(Weather)
    /// Nothing that this gateway sends arrives, for a while.
    case cut(Int, Duration)
    case cutBoth(Duration)
    /// The process dies and starts again without memory, after a while.
    case restart(Int, after: Duration)
    /// The machine is off for a while and comes back with its memory; its clock went on.
    case pause(Int, Duration)
    /// The same, but its clock stood still meanwhile: a suspended virtual machine.
    case suspend(Int, Duration)
    case leap(Int, Duration)
    /// The NAT in front of east forgets its mappings.
    case rebind
    /// The gateway loses the address it has and gets its other one.
    case move(Int)
    case up(Int, child: String?)
    case down(Int, child: String?)
    case rekeyChild(Int, child: String?)
    case rekeyIKE(Int)
    case rekeyBoth(ike: Bool)
    /// A new IKE SA in place of the old one, from scratch.
    case reauthenticate(Int)
    case softLimit(Int)
    case hardLimit(Int)
    case reload(Int)
    case pathBroken(Int)
    case installationDelay(Int, Duration)
    case refuseInstallations(Int, Duration)
    /// Somebody without keys sends what was sent before, bent or from elsewhere.
    case meddling
}

/// One end's configuration.
struct Side {
    var start = StartAction.immediately
    var ike = ["aes256gcm16-prfsha256-x25519"]
    var esp = ["aes256gcm16-esn-noesn"]
    var lifetime: Duration = .seconds(60)
    var ikeLifetime: Duration = .seconds(200)
    var dpd: Duration = .seconds(5)
    var nat = NATTraversal.auto
    var acceptsAnyAddress = false
    var mobike = false
    var reauthentication: Duration = .zero
    var deadPeer: DPDAction?
    var childless = Childless.allow
    /// Longest datagram with a fragment of an IKE message; nil: not fragmented.
    var fragmentBytes: Int?
}

/// One run, wholly drawn from its seed.
struct Scenario: CustomStringConvertible {
    enum Profile: String, CaseIterable {
        /// Nothing is lost, nothing restarts: then no packet may be lost and no child may be without a pair.
        case gentle
        /// The network is bad, the gateways are not.
        case lossy
        /// Everything.
        case chaos
    }

    enum Authentication: String { case presharedKey, certificates, eap }

    /// What is drawn has grown: a scenario of an earlier generation is what it was then, so that a seed which once found
    /// something goes on looking for it. 1: all but what follows. 2: certificates, EAP, more additional key exchanges, and
    /// somebody who meddles.
    static let generation = 2

    let seed: UInt64
    let profile: Profile
    var sides = [Side(), Side()]
    var children = 1
    var isBehindNAT = false
    var usesToyCrypto = true
    var authentication = Authentication.presharedKey
    /// An OCSP responder is asked about certificates.
    var asksResponder = false
    var settings = CoreSettings()
    var weather = Weather()
    /// After this much time the network is good again and nothing more happens.
    var length: Duration
    var mishaps: [(at: Duration, what: Mishap)] = []
    /// Mean time between packets of one child in one direction.
    var packetInterval: Duration = .milliseconds(250)

    var description: String {
        var lines = [
            "seed \(seed): \(profile.rawValue), \(children) children, \(isBehindNAT ? "east behind a NAT, " : "")"
                + "\(usesToyCrypto ? "toy" : "real") cryptography, \(weather), cookies from \(settings.cookieThreshold), "
                + "\(authentication.rawValue)\(asksResponder ? " with a responder" : "")"
        ]
        for (name, side) in zip(["east", "west"], sides) { lines.append("  \(name): \(side)") }
        for mishap in mishaps { lines.append("  at \(World.seconds(mishap.at.nanoseconds)) s: \(mishap.what)") }
        lines.append("  from \(World.seconds(length.nanoseconds)) s on: peace")
        return lines.joined(separator: "\n")
    }

    init(seed: UInt64, generation: Int = Scenario.generation) {
        self.seed = seed
        var dice = Dice(seed)
        profile = dice.pick([.gentle, .lossy, .chaos, .chaos])
        length = .milliseconds(dice.range(40_000, 110_000))
        usesToyCrypto = !dice.chance(0.02)
        children = dice.pick([1, 1, 2, 3])
        drawSides(&dice)
        drawWeather(&dice)
        drawMishaps(&dice)
        if generation >= 2 { drawSecondGeneration() }
    }

    // MARK: Drawing

    private mutating func drawSides(_ dice: inout Dice) {
        for index in 0..<2 {
            // A rekey begins with a tenth of the lifetime left, at least: room for a few round trips and collisions.
            let least: Int64 = profile == .gentle ? 25_000 : 15_000
            sides[index].lifetime = .milliseconds(dice.range(least, 60_000))
            sides[index].ikeLifetime = .milliseconds(dice.range(least * 2, 150_000))
            sides[index].dpd = .milliseconds(dice.range(2_000, 8_000))
        }
        sides[1].start = dice.pick([.manual, .manual, .onTraffic, .immediately])
        if dice.chance(0.1) { sides[0].start = .onTraffic }
        for index in 0..<2 where dice.chance(0.15) { sides[index].reauthentication = .milliseconds(dice.range(40_000, 120_000)) }
        for index in 0..<2 where dice.chance(0.3) { sides[index].deadPeer = dice.pick([.restart, .wait, .clear]) }
        sides[0].childless = dice.pick([.allow, .allow, .allow, .prefer])
        // A retry with the group that the other end wants, at first and at rekeys.
        if dice.chance(0.2) {
            sides[0].ike = ["aes256gcm16-prfsha256-ecp256-x25519"]
        } else if dice.chance(0.2) {
            for index in 0..<2 { sides[index].ike = ["aes128-sha256-modp2048"] }
        }
        // Additional key exchanges, which the other end may not want.
        if dice.chance(0.3) {
            sides[0].ike = ["aes256gcm16-prfsha256-x25519-ke1_mlkem768", "aes256gcm16-prfsha256-x25519"]
            sides[1].ike = dice.chance(0.7) ? sides[0].ike : ["aes256gcm16-prfsha256-x25519"]
        }
        for index in 0..<2 where dice.chance(0.8) { sides[index].fragmentBytes = dice.pick([576, 1280]) }
        if dice.chance(0.4) {
            sides[0].esp = ["aes256gcm16-ecp256-x25519-esn"]
            sides[1].esp = [dice.pick(["aes256gcm16-ecp256-esn", "aes256gcm16-x25519-esn"])]
        }
        if dice.chance(0.1) { settings.cookieThreshold = 0 }
        let nat = dice.pick([NATTraversal.auto, .auto, .auto, .off, .force])
        for index in 0..<2 { sides[index].nat = nat }
        if nat != .off, dice.chance(0.2) {
            isBehindNAT = true
            sides[1].acceptsAnyAddress = dice.chance(0.5)
        } else if nat != .off, dice.chance(0.3) {
            for index in 0..<2 { sides[index].mobike = true }
        } else if dice.chance(0.1) {
            sides[1].acceptsAnyAddress = true
        }
        // One that cannot begin has nothing to begin immediately.
        if sides[1].acceptsAnyAddress { sides[1].start = .manual }
    }

    /// From dice of its own: what the first generation draws stays as it is.
    private mutating func drawSecondGeneration() {
        let dice = Dice(seed ^ 0x5EC0_4D6E)
        authentication = dice.pick([.presharedKey, .presharedKey, .certificates, .eap])
        asksResponder = authentication != .presharedKey && dice.chance(0.3)
        if authentication == .eap {
            // An EAP server waits to be asked.
            (sides[1].acceptsAnyAddress, sides[1].start) = (true, .manual)
            (sides[1].mobike, sides[1].reauthentication) = (sides[0].mobike, .zero)
        }
        if dice.chance(0.15) {
            sides[0].ike = ["aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke2_ecp384", "aes256gcm16-prfsha256-x25519"]
            sides[1].ike = sides[0].ike
        }
        if dice.chance(0.2) {
            sides[0].esp = ["aes256gcm16-x25519-ke1_mlkem768-esn", "aes256gcm16-x25519-esn"]
            sides[1].esp = dice.chance(0.7) ? sides[0].esp : ["aes256gcm16-x25519-esn"]
        }
        guard dice.chance(0.4) else { return }
        for _ in 0..<dice.range(2, 10) {
            mishaps.append((.milliseconds(dice.range(0, Int64(length.components.seconds) * 1000)), .meddling))
        }
        mishaps.sort { $0.at < $1.at }
    }

    private mutating func drawWeather(_ dice: inout Dice) {
        weather = Self.weather(profile, &dice)
    }

    private static func weather(_ profile: Profile, _ dice: inout Dice) -> Weather {
        var weather = Weather(latency: .milliseconds(dice.range(1, profile == .gentle ? 80 : 150)))
        weather.duplication = dice.chance(0.5) ? dice.unit() * 0.3 : 0
        weather.spread = dice.chance(0.7) ? .milliseconds(dice.range(0, profile == .gentle ? 300 : 1500)) : .zero
        if profile != .gentle { weather.loss = dice.unit() * dice.pick([0.1, 0.2, 0.4]) }
        return weather
    }

    private mutating func drawMishaps(_ dice: inout Dice) {
        let count = Int(dice.range(6, 24))
        for _ in 0..<count {
            let at = Duration.milliseconds(dice.range(0, Int64(length.components.seconds) * 1000))
            mishaps.append((at, mishap(&dice)))
        }
        mishaps.sort { $0.at < $1.at }
    }

    private func mishap(_ dice: inout Dice) -> Mishap {
        let gateway = Int(dice.range(0, 2))
        let child: String? = dice.chance(0.5) ? nil : "net\(dice.range(0, Int64(children)))"
        let roll = dice.unit()
        if profile == .gentle || roll < 0.35 {
            switch dice.range(0, 9) {
            case 0, 1: return .rekeyChild(gateway, child: child)
            case 2, 3: return .rekeyIKE(gateway)
            case 4: return .rekeyBoth(ike: true)
            case 5: return .rekeyBoth(ike: false)
            case 6: return .softLimit(gateway)
            case 7: return .installationDelay(gateway, .milliseconds(dice.range(0, profile == .gentle ? 400 : 3000)))
            case 8: return .reauthenticate(gateway)
            default: return .up(gateway, child: child)
            }
        }
        if profile == .lossy || roll < 0.5 {
            switch dice.range(0, 5) {
            case 0, 1: return .weather(Self.weather(profile, &dice))
            case 2: return .cut(gateway, .milliseconds(dice.range(100, 6000)))
            case 3: return .cutBoth(.milliseconds(dice.range(100, 6000)))
            default: return sides[0].mobike ? .move(gateway) : .pathBroken(gateway)
            }
        }
        return chaoticMishap(gateway, child, &dice)
    }

    private func chaoticMishap(_ gateway: Int, _ child: String?, _ dice: inout Dice) -> Mishap {
        switch dice.range(0, 13) {
        case 0, 1: .restart(gateway, after: .milliseconds(dice.range(0, 20_000)))
        case 2: .pause(gateway, .milliseconds(dice.range(100, 40_000)))
        case 3: .suspend(gateway, .milliseconds(dice.range(100, 40_000)))
        case 4: .leap(gateway, .milliseconds(dice.range(100, 60_000)))
        case 5: .rebind
        case 6, 7: .down(gateway, child: child)
        case 8, 9: .up(gateway, child: child)
        case 10: .hardLimit(gateway)
        case 11: .reload(gateway)
        default: .refuseInstallations(gateway, .milliseconds(dice.range(100, 8000)))
        }
    }
}

/// Draws from a seed, in ways that a scenario needs.
struct Dice {
    private let random: SeededRandom
    init(_ seed: UInt64) { random = SeededRandom(seed: seed &* 7 &+ 5) }

    func unit() -> Double { random.unit() }
    func chance(_ probability: Double) -> Bool { random.unit() < probability }
    /// low ..< high
    func range(_ low: Int64, _ high: Int64) -> Int64 { low + Int64(random.unit() * Double(high - low)) }
    func pick<Element>(_ choices: [Element]) -> Element { choices[Int(random.unit() * Double(choices.count))] }
}
