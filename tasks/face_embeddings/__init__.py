"""Face embeddings: a MobileNet learns the embedding that a large net gives a face, on any images (paper, section 4.7).

The paper's figure for 1.0 MobileNet-160 with FaceNet for a teacher is 79.4 % (Table 14), FaceNet's own 83 %, on data
of its own.

    python -m tasks.face_attributes fit  # the built-in sample: a teacher
    python -m tasks.face_embeddings fit  # the built-in sample: learns from the newest of these
    python -m tasks.face_embeddings fit --data DIR --model.teacher T.ckpt
    python -m tasks.face_embeddings test --data.pairs pairs.txt --data.pairs_root lfw

An embedding identifies a person: it is biometric data, in the European Union of a special category (GDPR, Article 9),
to be computed and kept only with the consent of the people shown, or on another ground that law gives. Not for
identifying people in public, nor for decisions about a person, nor for databases of faces gathered from the web or from
cameras, which the AI Act bans (Regulation (EU) 2024/1689, Article 5(1)(e)). Errors are not spread evenly over groups of
people: measure them on those it will meet. The data's terms bind what is trained on them; CelebA's and LFW's are for
research.
"""

from tasks.face_embeddings.predict import load

__all__ = ["load"]
