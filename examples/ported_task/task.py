"""Koii's EZ testing task, the one that its first lesson deploys, ported line for line with the classic classes.

Origin: github.com/koii-network/ezsandbox, "Lesson 1/EZ-testing-task", the files submission.js, audit.js and
distribution.js of its folder task. Methods, their order and the wrapper's calls are the original's, so that the two
can be laid side by side; README.md says what differs and why.
"""

from koii_p2p.tasks.classic import Audit, Distribution, Submission, namespaceWrapper


class EzSubmission(Submission):
    async def task(self, round):
        print("task of round", round)
        value = "Hello, World!"
        if value:
            await namespaceWrapper.storeSet("value", value)
        return value

    async def submitTask(self, round):
        print("submitTask of round", round, "in slot", await namespaceWrapper.getSlot())
        submission = await self.fetchSubmission(round)
        await namespaceWrapper.checkSubmissionAndUpdateRound(submission, round)
        return submission

    async def fetchSubmission(self, round):
        return await namespaceWrapper.storeGet("value")


class EzAudit(Audit):
    async def validateNode(self, submission_value, round):
        return submission_value == "Hello, World!"

    async def auditTask(self, roundNumber):
        print("auditTask of round", roundNumber, "in slot", await namespaceWrapper.getSlot())
        await namespaceWrapper.validateAndVoteOnNodes(self.validateNode, roundNumber)


class EzDistribution(Distribution):
    async def submitDistributionList(self, round):
        distributionList = await self.generateDistributionList(round)
        if len(distributionList) == 0:
            print("no list of round", round)
            return
        decider = await namespaceWrapper.uploadDistributionList(distributionList, round)
        if decider:
            await namespaceWrapper.distributionListSubmissionOnChain(round)

    async def generateDistributionList(self, round):
        distributionList = {}
        distributionCandidates = []
        taskAccountDataJSON = await namespaceWrapper.getTaskSubmissionInfo(round)
        submissions = taskAccountDataJSON.submissions[round]
        submissions_audit_trigger = taskAccountDataJSON.submissions_audit_trigger[round]
        if submissions is None:
            return distributionList
        taskStakeListJSON = await namespaceWrapper.getTaskState({"is_stake_list_required": True})
        for candidatePublicKey in submissions:
            if submissions_audit_trigger and submissions_audit_trigger[candidatePublicKey]:
                votes = submissions_audit_trigger[candidatePublicKey].votes
                numOfVotes = 0
                for vote in votes:
                    if vote.is_valid:
                        numOfVotes += 1
                    else:
                        numOfVotes -= 1
                if numOfVotes < 0:
                    candidateStake = taskStakeListJSON.stake_list[candidatePublicKey]
                    slashedStake = candidateStake * 7 // 10
                    distributionList[candidatePublicKey] = -slashedStake
                if numOfVotes > 0:
                    distributionCandidates.append(candidatePublicKey)
            else:
                distributionCandidates.append(candidatePublicKey)
        if len(distributionCandidates) == 0:
            return distributionList
        reward = taskStakeListJSON.bounty_amount_per_round // len(distributionCandidates)
        for candidate in distributionCandidates:
            distributionList[candidate] = reward
        return distributionList
