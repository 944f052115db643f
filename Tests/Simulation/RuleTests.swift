@testable import Gateway
@testable import IKE
import IPsec
import Testing

/// Rules that two ends which break them alike would not notice: what comes to rest is looked at, not only that it does.
@Suite struct RuleTests {
    /// The nonces that decide, of all pairs and IKE SAs that ever were at either end.
    private final class Nonces {
        var children: Set<[UInt8]> = []
        var sas: Set<[UInt8]> = []

        func note(_ world: World) {
            for sa in world.gateways.flatMap(\.core.allSAs) {
                guard let established = sa.established else { continue }
                sas.insert(established.lowestNonce)
                for record in established.children { children.insert(record.lowestNonce) }
            }
        }
    }

    /// "the SA created with the lowest of the four nonces used in the two exchanges SHOULD be closed by the endpoint that created
    /// it." RFC 7296 §2.8.1
    @Test(arguments: [false, true], 1...8)
    func `of two that were made at once the one with the lowest nonce goes`(ike: Bool, seed: UInt64) throws {
        let play = try Choreography(seed: seed)
        let (before, after) = (Nonces(), Nonces())
        before.note(play.world)
        play.hold()
        for gateway in [play.east, play.west] {
            gateway.command("rekey") { _ = $0.rekey(connection: "c", child: ike ? nil : "net0", ike: ike, now: gateway.now) }
        }
        let isDrained = play.drain { _ in
            after.note(play.world)
            return 0
        }
        #expect(isDrained)
        play.release()
        #expect(play.world.run(for: .seconds(60)) { play.world.quietFault == nil }, "\(play.world.quietFault ?? "")")
        let made = ike ? after.sas.subtracting(before.sas) : after.children.subtracting(before.children)
        #expect(made.count == 2)
        let left = Nonces()
        left.note(play.world)
        let highest = made.max { $0.lexicographicallyPrecedes($1) }
        #expect(ike ? left.sas == [highest] : left.children == [highest])
    }

    /// "it SHOULD reply with TEMPORARY_FAILURE": to a child while the IKE SA is being rekeyed, to a rekeyed IKE SA while a child
    /// is, and to the rekey of a child that is being deleted. RFC 7296 §2.25.1, §2.25.2
    @Test(arguments: [false, true])
    func `nothing is made of what crosses`(deletes: Bool) throws {
        let play = try Choreography(seed: 1)
        let (before, after) = (Nonces(), Nonces())
        before.note(play.world)
        play.hold()
        play.east.command("rekey") {
            _ = $0.rekey(connection: "c", child: deletes ? "net0" : nil, ike: !deletes, now: play.east.now)
        }
        play.west.command("at once") {
            if deletes {
                _ = $0.deleteAsPeer(connection: "c", child: "net0", now: play.west.now)
            } else {
                _ = $0.rekey(connection: "c", child: "net0", ike: false, now: play.west.now)
            }
        }
        let isDrained = play.drain { _ in
            after.note(play.world)
            return 0
        }
        #expect(isDrained)
        after.note(play.world)
        #expect(after.sas == before.sas && after.children == before.children)
        play.release()
        if deletes {
            play.east.command("up") { _ = $0.initiate(connection: "c", child: nil, now: play.east.now) }
        }
        #expect(play.world.run(for: .seconds(60)) { play.world.quietFault == nil }, "\(play.world.quietFault ?? "")")
        guard !deletes else { return }
        // Both are made up for.
        let isMadeUpFor = play.world.run(for: .seconds(60)) {
            let now = Nonces()
            now.note(play.world)
            return now.sas.isDisjoint(with: before.sas) && now.children.isDisjoint(with: before.children)
        }
        #expect(isMadeUpFor)
    }

    /// "A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently delete the Child SA (if it still exists) and send
    /// a request to create a new Child SA from scratch". RFC 7296 §2.25
    @Test func `a child that the peer has lost without a word is made anew when it is to be rekeyed`() throws {
        let play = try Choreography(seed: 1)
        play.west.command("loses a child") { core in
            guard let sa = core.allSAs.first, let established = sa.established else { return }
            for record in established.children { core.remove(record, of: sa, established) }
        }
        #expect(!play.world.works(child: 0, between: play.east, play.west))
        play.east.command("rekey") { _ = $0.rekey(connection: "c", child: "net0", ike: false, now: play.east.now) }
        #expect(play.world.run(for: .seconds(40)) { play.world.quietFault == nil }, "\(play.world.quietFault ?? "")")
        #expect(play.world.works(child: 0, between: play.east, play.west))
    }

    /// RFC 7296 §2.4: INITIAL_CONTACT is there so that nobody has to wait for the death of what is gone already.
    @Test func `what a peer had before it was started anew is gone when it is back`() throws {
        let play = try Choreography(seed: 2)
        play.east.restart()
        let isBack = play.world.run(for: .seconds(30)) { play.world.works(child: 0, between: play.east, play.west) }
        #expect(isBack)
        #expect(play.west.core.allSAs.filter { $0.established != nil }.count == 1)
        #expect(play.west.core.childIndex.count == 1)
    }
}
